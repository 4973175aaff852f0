"""The report's lists as CSV, with names and texts instead of row numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.data.splits.format import Split
from pipeline.report.pair_list import PairList

if TYPE_CHECKING:
    import pandas

TRUTH = {"true": "true", "false": "false", "unjudged": "", "unknown": ""}


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
            "truth": [TRUTH[mark] for mark in table["mark"]],
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
