"""Pairs that may be wrong (the caption is not of its image), by the best score that a run has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.splits.format import Split, read_split
from pipeline.errors import InputError
from pipeline.report.gallery import Embedded, least_similar_pairs

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Suspects:
    """Pairs, worst first: `table` has `image`, `caption` (rows of `split`) and the column `measure`."""

    split: Split
    split_name: str
    measure: str
    table: pandas.DataFrame
    """With the column `written_for` if the noise is known: the row of the caption's true image."""
    how: str


def suspected_pairs(
    embedded: Embedded,
    split_name: str,
    train: Path,
    weights: Path,
    bank: Path,
    count: int,
    true_image_M: Sequence[int] | None = None,
) -> Suspects:
    """The pairs with the lowest weight, else the lowest clean probability, else the lowest similarity.

    Args:
        embedded: the evaluated split, for runs without weights or clean probabilities of training pairs.
        split_name: its name.
        train: the training split.
        weights: a parquet of training pairs with their last `weight` (NPC), if the run made one.
        bank: a parquet of training pairs with their `clean_probability`, if there is one.
        count: number of pairs.
        true_image_M: the image that each training caption was written for, if the noise is known.

    Raises:
        InputError: naming a file that exists but is not as expected.
    """
    for path, measure, how in (
        (weights, "weight", "the training pairs that counted least: lowest weight by their negative impact (NPC)"),
        (bank, "clean_probability", "the training pairs of the lowest probability of being clean, by the base model"),
    ):
        table = _read(path, measure)
        if table is not None:
            worst = table.sort_values(measure, kind="stable").head(count).reset_index(drop=True)
            split = _checked(read_split(train), worst, path)
            if true_image_M is not None:
                worst["written_for"] = [int(true_image_M[caption]) for caption in worst["caption"]]
            return Suspects(split, "train", measure, worst, how)
    how = f"the {split_name} split's own pairs that the trained model finds least alike: this run weighed no pairs"
    return Suspects(embedded.split, split_name, "similarity", least_similar_pairs(embedded, count), how)


def _read(path: Path, measure: str) -> pandas.DataFrame | None:
    """The pairs with a value; None if there are none."""
    import pandas

    if not path.exists():
        return None
    try:
        table = pandas.read_parquet(path)
    except Exception as error:  # Arrow's reader raises almost anything on a damaged file
        raise InputError(f"{path}: not readable as parquet: {error}") from None
    missing = [name for name in ("image", "caption", measure) if name not in table]
    if missing and len(table):
        raise InputError(f"{path}: no column {missing[0]!r}; found {', '.join(map(str, table)) or 'none'}")
    for name, kind in (("image", "i"), ("caption", "i"), (measure, "f")) if not missing else ():
        if table[name].dtype.kind != kind:
            raise InputError(f"{path}: column {name!r} is of {table[name].dtype}, not of numbers as stages write them")
    return None if missing else _or_none(table[["image", "caption", measure]].dropna())


def _or_none(table: pandas.DataFrame) -> pandas.DataFrame | None:
    return table if len(table) else None


def _checked(split: Split, table: pandas.DataFrame, path: Path) -> Split:
    """The split, if the table's rows are its rows."""
    for column, count in (("image", len(split.images)), ("caption", len(split.captions))):
        outside = table[(table[column] < 0) | (table[column] >= count)]
        if len(outside):
            found = outside[column].iloc[0]
            raise InputError(f"{path}: {column} = {found}: the training split has {count}; `dvc repro` makes it anew")
    return split
