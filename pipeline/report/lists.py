"""The report's lists as CSV, with names and texts instead of row numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.splits.format import Split
from pipeline.report.suspects import Suspects

if TYPE_CHECKING:
    import pandas

VERDICTS = {"true": "true", "false": "false", "unjudged": "", "unknown": ""}


def false_negative_table(found: pandas.DataFrame, split: Split, split_name: str) -> pandas.DataFrame:
    """One row per pair: `split`, `image`, `caption`, `written_for`, `similarity`, `posterior`, `truth`, `caption_row`.

    `written_for` is the caption's own image; `truth` is empty for a pair without a label; `caption_row` is the row of
    the split's captions, from 0.
    """
    import pandas

    return pandas.DataFrame(
        {
            "split": split_name,
            "image": [split.images[row] for row in found["image"]],
            "caption": [split.captions[row] for row in found["caption"]],
            "written_for": [split.images[split.caption_image[row]] for row in found["caption"]],
            "similarity": found["similarity"],
            "posterior": found["posterior"],
            "truth": [VERDICTS[mark] for mark in found["mark"]],
            "caption_row": found["caption"],
        }
    )


def suspect_table(suspects: Suspects) -> pandas.DataFrame:
    """One row per pair: `split`, `image`, `caption`, `measure`, `value`, `written_for`, `caption_row`.

    `written_for` is the caption's true image; empty if the noise is not known.
    """
    import pandas

    table, split = suspects.table, suspects.split
    known = table.get("written_for")
    return pandas.DataFrame(
        {
            "split": suspects.split_name,
            "image": [split.images[row] for row in table["image"]],
            "caption": [split.captions[row] for row in table["caption"]],
            "measure": suspects.measure,
            "value": table[suspects.measure],
            "written_for": "" if known is None else [split.images[row] for row in known],
            "caption_row": table["caption"],
        }
    )
