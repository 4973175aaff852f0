"""The report's lists as CSV, with names and texts instead of row numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.report.labels import VERDICTS, Labelled
from pipeline.report.pair_list import PairList

if TYPE_CHECKING:
    import pandas


def false_negative_table(pairs: PairList, splits: Mapping[str, Split], trust: Mapping[str, Any]) -> pandas.DataFrame:
    """One row per pair, with a column for each kind of evidence at the end.

    `split`, `image`, `caption`, `written_for` (the image that the caption is paired with), `similarity` (empty where
    the split is not encoded), `posterior`, `truth` (empty for a pair without a label), `caption_row` (from 0), `trust`
    (in the caption's own pair; empty without evidence).
    """
    import pandas

    table = pairs.table
    return pandas.DataFrame(
        {
            **_named(pairs, splits),
            "written_for": _images(table, [splits[name].caption_image[row] for name, row in _rows(table)], splits),
            "similarity": table["similarity"],
            "posterior": table["posterior"],
            "truth": [mark if mark in VERDICTS else "" for mark in table["mark"]],
            "caption_row": table["caption"],
            "trust": [float(trust[name][row]) if name in trust else None for name, row in _rows(table)],
            **_kinds(pairs),
        }
    )


def suspect_table(pairs: PairList, splits: Mapping[str, Split]) -> pandas.DataFrame:
    """One row per pair, with a column for each kind of evidence at the end.

    `split`, `image`, `caption`, `measure`, `value`, `written_for` (the caption's true image; empty if the noise is not
    known), `caption_row` (from 0), `trust` and NPC's `weight` (empty where there is none).
    """
    import pandas

    table = pairs.table
    known = table.get("written_for")
    return pandas.DataFrame(
        {
            **_named(pairs, splits),
            "measure": pairs.measure,
            "value": table[pairs.measure],
            "written_for": "" if known is None else _images(table, known, splits),
            "caption_row": table["caption"],
            **{name: table.get(name, "") for name in ("trust", "weight")},
            **_kinds(pairs),
        }
    )


def every_pair(splits: Mapping[str, Labelled], trust: Mapping[str, Tensor]) -> pandas.DataFrame:
    """Every pair of the data set: `split`, `image`, `caption`, `trust` (NaN without evidence) and `answer`.

    `answer` is what `data.judgments` says of the pair: yes, no, or empty.
    """
    import pandas

    parts = []
    for name, labelled in splits.items():
        split = labelled.split
        image_M, caption_M = np.array(split.caption_image, np.int64), np.arange(len(split.captions))
        columns = {"split": name, "image": [split.images[row] for row in image_M], "caption": split.captions}
        value_M = trust[name].numpy() if name in trust else np.full(len(caption_M), np.nan, np.float32)
        parts.append(pandas.DataFrame(columns | {"trust": value_M, "answer": _answers(labelled, image_M, caption_M)}))
    return pandas.concat(parts, ignore_index=True)


def every_match(
    splits: Mapping[str, Labelled], columns: Mapping[str, tuple[Tensor, Tensor, Tensor]]
) -> pandas.DataFrame:
    """Every listed unpaired pair: `split`, `image`, `caption`, `written_for`, `posterior` and `answer`; most probable
    first.

    Pairs judged to match are there without evidence too, with a `posterior` of NaN.
    """
    import pandas

    parts = [
        pandas.DataFrame({"split": [], "image": [], "caption": [], "written_for": [], "posterior": [], "answer": []})
    ]
    for name, labelled in splits.items():
        split = labelled.split
        image_P, caption_P, value_P = (
            part.numpy() for part in columns.get(name, [torch.empty(0, dtype=torch.long)] * 3)
        )
        if labelled.judged is not None:
            judged = labelled.judged
            key_P, key_J = (
                rows * len(split.captions) + texts
                for rows, texts in ((image_P, caption_P), (judged.image_J, judged.caption_J))
            )
            more_J = judged.match_J & ~judged.own_J & ~np.isin(key_J, key_P)
            image_P, caption_P = (
                np.concatenate(two)
                for two in ((image_P, judged.image_J[more_J]), (caption_P, judged.caption_J[more_J]))
            )
            value_P = np.concatenate([value_P, np.full(more_J.sum(), np.nan)])
        if len(image_P):
            named = {
                "split": name,
                "image": [split.images[row] for row in image_P],
                "caption": [split.captions[row] for row in caption_P],
                "written_for": [split.images[split.caption_image[row]] for row in caption_P],
            }
            parts.append(
                pandas.DataFrame(named | {"posterior": value_P, "answer": _answers(labelled, image_P, caption_P)})
            )
    return pandas.concat(parts[1:] or parts, ignore_index=True).sort_values("posterior", ascending=False, kind="stable")


def _answers(labelled: Labelled, image_P: NDArray[np.int64], caption_P: NDArray[np.int64]) -> NDArray[np.str_]:
    known_P, yes_P = labelled.answers(image_P, caption_P)
    return np.where(known_P, np.where(yes_P, "yes", "no"), "")


def _rows(table: pandas.DataFrame) -> zip[tuple[str, int]]:
    return zip(table["split"], table["caption"], strict=True)


def _images(table: pandas.DataFrame, rows: Iterable[int], splits: Mapping[str, Split]) -> list[str]:
    return [splits[name].images[row] for name, row in zip(table["split"], rows, strict=True)]


def _named(pairs: PairList, splits: Mapping[str, Split]) -> dict[str, Any]:
    table = pairs.table
    return {
        "split": table["split"],
        "image": _images(table, table["image"], splits),
        "caption": [splits[name].captions[row] for name, row in _rows(table)],
    }


def _kinds(pairs: PairList) -> dict[str, list[float | None]]:
    """The value of each kind of evidence; None for a pair without it."""
    by_pair = [{reason.kind: reason.value for reason in reasons} for reasons in pairs.reasons]
    kinds = dict.fromkeys(kind for values in by_pair for kind in values)
    return {kind: [values.get(kind) for values in by_pair] for kind in kinds}
