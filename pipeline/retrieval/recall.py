"""Recall at K and median rank from ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CUTOFFS = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")


def recall_names(between: str = "_") -> tuple[str, ...]:
    """The six recalls in the order of published tables: `i2t_R1` … `t2i_R10`; `between` replaces the underscore."""
    return tuple(f"{direction}{between}R{cutoff}" for direction in DIRECTIONS for cutoff in CUTOFFS)


def recall_at(ranks: Tensor, cutoff: int) -> float:
    """Percentage of queries whose right answer is among the first `cutoff`; ranks count from 0."""
    return 100 * (ranks < cutoff).double().mean().item()


def recalls(i2t_N: Tensor, t2i_M: Tensor) -> dict[str, float]:
    """R@1, R@5 and R@10 in both directions and their sum, in percent: `{"i2t_R1": …, "t2i_R10": …, "rsum": …}`.

    The sum is rounded to 1e-9: equal hits give equal sums, and MLflow, which keeps ten digits, the same one.
    """
    values = [recall_at(ranks, cutoff) for ranks in (i2t_N, t2i_M) for cutoff in CUTOFFS]
    return {**dict(zip(recall_names(), values, strict=True)), "rsum": round(sum(values), 9)}


def report_recalls(report: Mapping[str, Any]) -> list[Any]:
    """Recalls, or their intervals, of a part of `metrics.json` in the order of `recall_names`; None: missing."""
    return [report.get(direction, {}).get(f"R{cutoff}") for direction in DIRECTIONS for cutoff in CUTOFFS]


def retrieval_report(i2t_N: Tensor, t2i_M: Tensor) -> dict[str, Any]:
    """The metrics, nested as in `metrics.json`: `{"i2t": {"R1", "R5", "R10", "median_rank"}, "t2i": {…}, "rsum"}`.

    The median rank counts from 1 and is rounded down, as in published tables.
    """
    flat = recalls(i2t_N, t2i_M)
    report: dict[str, Any] = {
        direction: {
            **{f"R{cutoff}": flat[f"{direction}_R{cutoff}"] for cutoff in CUTOFFS},
            "median_rank": math.floor(ranks.double().quantile(0.5).item()) + 1.0,
        }
        for direction, ranks in zip(DIRECTIONS, (i2t_N, t2i_M), strict=True)
    }
    return {**report, "rsum": flat["rsum"]}


def folded_ranks(image_ND: Tensor, text_MD: Tensor, caption_image_M: Tensor, folds: int) -> list[tuple[Tensor, Tensor]]:
    """Ranks within `folds` contiguous folds of images and their captions: COCO 1K is five folds of COCO 5K."""
    from pipeline.retrieval.ranks import retrieval_ranks

    return [retrieval_ranks(*part) for part in fold_parts(image_ND, text_MD, caption_image_M, folds)]


def fold_parts(
    image_ND: Tensor, text_MD: Tensor, caption_image_M: Tensor, folds: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each fold's images, captions, and the caption's image within the fold."""
    import torch

    caption_image_M = caption_image_M.to(image_ND.device)
    for fold in torch.arange(len(image_ND), device=image_ND.device).tensor_split(folds):
        first, last = int(fold[0]), int(fold[-1])
        inside = (caption_image_M >= first) & (caption_image_M <= last)
        yield image_ND[first : last + 1], text_MD[inside], caption_image_M[inside] - first


def mean_report(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of equally nested metrics."""
    return {
        name: mean_report([report[name] for report in reports])
        if isinstance(value, dict)
        else sum(report[name] for report in reports) / len(reports)
        for name, value in reports[0].items()
    }
