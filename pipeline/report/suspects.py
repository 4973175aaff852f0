"""Pairs that may be wrong (the caption is not of its image), by the best score that a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.data.splits.truth_file import Noise
from pipeline.errors import InputError
from pipeline.paths import BANK_PAIRS, WEIGHTS
from pipeline.report.gallery import Embedded
from pipeline.report.pair_list import CUTOFFS, PairList, best_pairs, precision_at

if TYPE_CHECKING:
    import pandas


def true_images(splits: Mapping[str, Split], noise: Noise | None, clean: bool) -> dict[str, Sequence[int]]:
    """The image that each caption was written for, by split; empty if nobody knows. Noise is in `train` only.

    `clean`: the data set itself has no wrong pairs, as generated scenes.
    """
    if noise is None and not clean:
        return {}
    known: dict[str, Sequence[int]] = {name: split.caption_image for name, split in splits.items()}
    return known if noise is None else known | {"train": noise.true_image_M.tolist()}


def suspected_pairs(
    splits: Mapping[str, Split],
    trust: Mapping[str, Tensor],
    count: int,
    true_image: Mapping[str, Sequence[int]],
    embedded: Embedded | None = None,
    weights: Path = WEIGHTS,
    bank: Path = BANK_PAIRS,
) -> PairList:
    """The pairs with the lowest trust; without evidence, with the lowest weight, clean probability or similarity.

    The table also has training's `weight`, if there is one, and `written_for`, if `true_image` is known.

    Args:
        splits: all, by name.
        trust: the trust in each pair of some splits; empty without evidence.
        count: number of pairs.
        true_image: see `true_images`.
        embedded: the test split, if a model was trained.
        weights, bank: parquets of training pairs with their last `weight` and their `clean_probability`, if they exist.

    Raises:
        InputError: naming a file that exists but is not as expected.
    """
    import pandas

    train = splits.get("train")
    weighted = None if train is None else _read(weights, "weight", train)
    if trust:
        table, measure = _least_trusted(splits, trust, weighted, max(count, *CUTOFFS)), "trust"
        how = f"the pairs of {' and '.join(trust)} that the evidence trusts least, before any training"
    elif weighted is not None:
        table, measure = weighted, "weight"
        how = "the training pairs that counted least: lowest last weight (pairs.weighting)"
    elif train is not None and (scored := _read(bank, "clean_probability", train)) is not None:
        table, measure = scored, "clean_probability"
        how = "the training pairs of the lowest probability of being clean, by the base model"
    elif embedded is not None:
        table, measure = _similarities(embedded), "similarity"
        how = "the test split's own pairs that the trained model finds least alike: this run weighted no pairs"
    else:
        table, measure, how = pandas.DataFrame(columns=["split", "image", "caption", "trust"]), "trust", "none"
    worst = table.sort_values(measure, kind="stable").head(max(count, *CUTOFFS)).reset_index(drop=True)
    wrong: Sequence[bool | None] = [None] * len(worst)
    if true_image:
        worst["written_for"] = [
            true_image[name][row] for name, row in zip(worst["split"], worst["caption"], strict=True)
        ]
        wrong = (worst["written_for"] != worst["image"]).tolist()
    return PairList(worst.head(count), measure, how, precision_at(wrong))


def _least_trusted(
    splits: Mapping[str, Split], trust: Mapping[str, Tensor], weighted: pandas.DataFrame | None, count: int
) -> pandas.DataFrame:
    import pandas

    columns = {
        name: (torch.tensor(splits[name].caption_image), torch.arange(len(trust_M)), -trust_M)
        for name, trust_M in trust.items()
    }
    rows = [(name, image, caption, -value) for name, image, caption, value in islice(best_pairs(columns), count)]
    table = pandas.DataFrame(rows, columns=["split", "image", "caption", "trust"])
    return table if weighted is None else table.merge(weighted, how="left", on=["split", "image", "caption"])


def _similarities(embedded: Embedded) -> pandas.DataFrame:
    """The similarity of every own pair."""
    import pandas

    similarity_M = (embedded.image_ND[embedded.caption_image_M] * embedded.text_MD).sum(dim=1)
    columns = {"image": embedded.split.caption_image, "caption": range(len(similarity_M))}
    return pandas.DataFrame({"split": "test", **columns, "similarity": similarity_M.double().numpy()})


def _read(path: Path, measure: str, train: Split) -> pandas.DataFrame | None:
    """The training pairs with a value; None if there are none."""
    import pandas

    if not path.exists():
        return None
    try:
        table = pandas.read_parquet(path)
    except Exception as error:  # Arrow's reader raises almost anything on a damaged file
        raise InputError(f"{path}: not readable as parquet: {error}") from None
    if not len(table):  # a run that needs no bank leaves an empty one
        return None
    for name, kind in (("image", "i"), ("caption", "i"), (measure, "f")):
        if name not in table:
            raise InputError(f"{path}: no column {name!r}; found {', '.join(map(str, table)) or 'none'}")
        if table[name].dtype.kind != kind:
            raise InputError(f"{path}: column {name!r} is of {table[name].dtype}, not of numbers as stages write them")
    table = table[["image", "caption", measure]].dropna()
    for column, count in (("image", len(train.images)), ("caption", len(train.captions))):
        outside = table[(table[column] < 0) | (table[column] >= count)]
        if len(outside):
            found = outside[column].iloc[0]
            raise InputError(f"{path}: {column} = {found}: the training split has {count}; run `dvc repro`")
    return table.assign(split="train") if len(table) else None
