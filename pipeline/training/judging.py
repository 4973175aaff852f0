"""How good a trained model is: ranks, recalls, figures against the truth, and the curves behind the plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.data.known import Truth
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import folded_ranks, recall_at, retrieval_report
from pipeline.retrieval.relevance import precision_at_r, ranking_quality
from pipeline.sampling.posterior import false_negative_posterior

if TYPE_CHECKING:
    import pandas

CURVE_POINTS = 200
HIGHEST_LOW = 0.99  # where curves begin at the latest: collapsed towers' similarities are all 1
RECALL_DEPTH = 50
PAIR_CHUNK = 1 << 16  # pairs whose vectors are gathered at a time
MOST_PAIRS = 20_000_000  # unpaired pairs that the posterior is judged on


@dataclass(frozen=True)
class Encoded:
    """A split through the model: unit vectors (N, D) and (M, D), and each caption's image (M,)."""

    image_ND: Tensor
    text_MD: Tensor
    caption_image_M: Tensor

    def ranks(self) -> tuple[Tensor, Tensor]:
        """(i2t_N, t2i_M), from 0."""
        return retrieval_ranks(self.image_ND, self.text_MD, self.caption_image_M)


def judge(encoded: Encoded, folds: int, truth: Truth | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """One model's figures as `metrics.json` nests them; `run` holds the statistics and the sampler's settings."""
    report = _mean(
        [
            retrieval_report(*ranks)
            for ranks in (
                folded_ranks(encoded.image_ND, encoded.text_MD, encoded.caption_image_M, folds)
                if folds > 1
                else [encoded.ranks()]
            )
        ]
    )
    if truth is None:
        return report
    image_P, caption_P = torch.from_numpy(truth.image_P), torch.from_numpy(truth.caption_P)
    true_P = torch.from_numpy(truth.true_P)
    if truth.exact:
        report["truth"] = {}
        sides = {"i2t": (encoded.image_ND, encoded.text_MD, image_P, caption_P)}
        sides["t2i"] = (encoded.text_MD, encoded.image_ND, caption_P, image_P)
        for direction, (query, item, query_P, item_P) in sides.items():
            average, precision = precision_at_r(query, item, query_P[true_P], item_P[true_P])
            report["truth"][direction] = {"mAP@R": 100 * average.mean().item(), "R-P": 100 * precision.mean().item()}
        image_P, caption_P, true_P = _all_pairs(encoded, image_P[true_P], caption_P[true_P])
    unpaired_P = encoded.caption_image_M[caption_P] != image_P
    image_P, caption_P, true_P = image_P[unpaired_P], caption_P[unpaired_P], true_P[unpaired_P]
    if 0 < int(true_P.sum()) < len(true_P):
        similarity_P = _similarity(encoded, image_P, caption_P)
        report["posterior"] = ranking_quality(posterior(similarity_P.cpu(), run), true_P)
        report["similarity"] = ranking_quality(similarity_P.cpu(), true_P)
    return report


def posterior(similarity: Tensor, run: Mapping[str, Any]) -> Tensor:
    """The false-negative posterior by the statistics that a run ended with."""
    populations = {
        name: SimpleNamespace(
            mean=torch.tensor(part["mean"], dtype=torch.float64),
            variance=torch.tensor(part["variance"], dtype=torch.float64),
        )
        for name, part in run["statistics"].items()
    }
    return false_negative_posterior(
        similarity.double(), populations["positive"], populations["negative"], run["sampler"]["prior"]
    )


def similarity_curves(encoded: Encoded, run: Mapping[str, Any]) -> pandas.DataFrame:
    """Densities of matched pairs and of their nearest mismatches, with the posterior and FNE's weight over them."""
    import numpy as np
    import pandas

    matched_M, mismatch_M = _nearest(encoded)
    low = min(torch.cat([matched_M, mismatch_M]).min().item(), HIGHEST_LOW)
    edges = np.linspace(low, 1.0, CURVE_POINTS + 1)
    centre = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    chance = posterior(centre, run)
    sampler = run["sampler"]
    distance = (centre - matched_M.double().mean()).square()
    weight = torch.exp(-sampler["alpha"] * torch.where(chance > sampler["suspect"], chance, distance))
    weight[centre <= run["statistics"]["positive"]["mean"] - sampler["cutdown"]] = 0
    return pandas.DataFrame(
        {
            "similarity": centre.numpy(),
            "matched": np.histogram(matched_M.numpy(), edges, density=True)[0],
            # a split of one image has no mismatch
            "unmatched": np.histogram(mismatch_M.numpy(), edges, density=True)[0] if len(mismatch_M) else 0.0,
            "posterior": chance.numpy(),
            "weight": weight.numpy(),
        }
    )


def recall_curve(i2t_N: Tensor, t2i_M: Tensor) -> pandas.DataFrame:
    """Recall by K, in percent, both ways: columns `K`, `recall`, `direction`."""
    import pandas

    depths = range(1, min(RECALL_DEPTH, len(i2t_N)) + 1)
    return pandas.DataFrame(
        [
            {"K": depth, "recall": recall_at(ranks, depth), "direction": direction}
            for direction, ranks in (("image to text", i2t_N), ("text to image", t2i_M))
            for depth in depths
        ]
    )


def _nearest(encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Every caption's similarity to its own image and to the most similar other one."""
    matched, mismatch = [], []
    for text_BD, own_B in zip(encoded.text_MD.split(1024), encoded.caption_image_M.split(1024), strict=True):
        similarity_BN = (text_BD @ encoded.image_ND.T).cpu()
        matched.append(similarity_BN.gather(1, own_B[:, None]).squeeze(1))
        mismatch.append(similarity_BN.scatter(1, own_B[:, None], -torch.inf).amax(dim=1))
    mismatch_M = torch.cat(mismatch)
    return torch.cat(matched).clamp(max=1), mismatch_M[mismatch_M.isfinite()].clamp(max=1)  # rounding goes beyond


def _similarity(encoded: Encoded, image_P: Tensor, caption_P: Tensor) -> Tensor:
    """Of listed pairs, (P,)."""
    parts = [
        (encoded.image_ND[images] * encoded.text_MD[captions]).sum(dim=1)
        for images, captions in zip(image_P.split(PAIR_CHUNK), caption_P.split(PAIR_CHUNK), strict=True)
    ]
    return torch.cat(parts)


def _all_pairs(encoded: Encoded, image_P: Tensor, caption_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of the split with its truth, of as many whole images as stay below `MOST_PAIRS`."""
    captions = len(encoded.text_MD)
    images = min(len(encoded.image_ND), max(1, MOST_PAIRS // captions))
    true_NM = torch.zeros(images, captions, dtype=torch.bool)
    inside_P = image_P < images
    true_NM[image_P[inside_P], caption_P[inside_P]] = True
    return (
        torch.arange(images).repeat_interleave(captions),
        torch.arange(captions).repeat(images),
        true_NM.flatten(),
    )


def _mean(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of equally nested figures."""
    first = reports[0]
    return {
        name: _mean([report[name] for report in reports])
        if isinstance(value, dict)
        else sum(report[name] for report in reports) / len(reports)
        for name, value in first.items()
    }
