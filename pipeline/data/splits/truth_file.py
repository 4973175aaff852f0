"""Read the labels that stage `split` wrote: which pairs match in truth, and which training pairs are noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.splits.format import read_split
from pipeline.data.splits.judgment_file import read_judged
from pipeline.errors import InputError
from pipeline.files import read_record
from pipeline.paths import NOISE, TRUTH, TRUTH_KIND

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The smallest relevance of a match. A source with separate labels for image and caption queries is stored as two,
# `eccv_i2t` and `eccv_t2i`, and read as one.
TRUE_FROM = {"scenes": 1.0, "crowd": 0.5, "expert": 3.0, "eccv": 1.0, "cxc": 1.0}
UNLISTED_IS_FALSE = ("exact", "pooled")
DIRECTIONS = ("i2t", "t2i")
JUDGED = "judgments"
"""The source of `data.judgments`: reported apart from the data set's own truth."""


@dataclass(frozen=True)
class Truth:
    """P labelled pairs of one split."""

    exact: bool
    """True: an unlisted pair of a query with a true pair is false. False: it is unknown."""
    how: str
    image_P: NDArray[np.int64]
    caption_P: NDArray[np.int64]
    true_P: NDArray[np.bool_]
    asked_P: Mapping[str, NDArray[np.bool_]]
    """By direction, i2t and t2i: whether the label is for the image, or the caption, as the query."""


def read_truths(folder: Path, split: str) -> dict[str, Truth]:
    """The labels of a split's pairs, by source; the first is the main one, and a person's own judgments are the last.
    Empty if there are none.

    Raises:
        InputError: when the files exist but cannot be read.
    """
    import pandas

    kind_path, table_path = folder / TRUTH_KIND.name, folder / TRUTH.name
    if not kind_path.exists():
        return _judged(folder, split)
    kind = read_record(kind_path, "split")
    try:
        exact, how = kind["kind"] in UNLISTED_IS_FALSE, str(kind["how"])
        table = pandas.read_parquet(table_path)
        table = table[table["split"] == split]
        parts = table["source"].str.extract("^([^_]*)_?(.*)$")
        name, side = parts[0], parts[1]  # no side: valid in both directions
        truths = {}
        for source, least in TRUE_FROM.items():
            rows, side_P = table[name == source], side[name == source]
            if len(rows):
                truths[source] = Truth(
                    exact,
                    how,
                    rows["image"].to_numpy("int64"),
                    rows["caption"].to_numpy("int64"),
                    rows["relevance"].to_numpy() >= least,
                    {direction: side_P.isin(["", direction]).to_numpy() for direction in DIRECTIONS},
                )
    except Exception as error:  # Arrow's reader raises many types on a damaged file
        raise InputError(f"{table_path} or {kind_path.name}: not readable ({error}); run `dvc repro split`") from None
    return truths | _judged(folder, split)


def _judged(folder: Path, split: str) -> dict[str, Truth]:
    judged = read_judged(folder, split)
    if judged is None or not len(judged.image_J):
        return {}
    every_J = judged.match_J | ~judged.match_J
    how = f"{len(every_J)} judgments (data.judgments)"
    asked = dict.fromkeys(DIRECTIONS, every_J)
    return {JUDGED: Truth(False, how, judged.image_J, judged.caption_J, judged.match_J, asked)}


@dataclass(frozen=True)
class Noise:
    """The noise of the M training captions; rows are those of train.json."""

    permutation_M: NDArray[np.int64]
    """For row m, its caption's row in the clean split."""
    true_image_M: NDArray[np.int64]
    """The image that row m's caption was written for."""
    wrong_M: NDArray[np.bool_]
    """Whether that is another image than the one in its row."""
    ratio: float
    """The requested share of shuffled captions; for a published index, which has none, the share that moved."""


def read_noise(folder: Path) -> Noise | None:
    """The training split's noise; None without noise or without noise.json.

    Raises:
        InputError: when noise.json cannot be read.
    """
    import numpy as np

    path = folder / NOISE.name
    if not path.exists():
        return None
    record = read_record(path, "split")
    try:
        if record["permutation"] is None:
            return None
        permutation_M, true_image_M = (np.array(record[key], np.int64) for key in ("permutation", "true_image"))
        ratio = float(record["chosen"] / len(permutation_M) if record["ratio"] is None else record["ratio"])
    except (ArithmeticError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error!r}); run `dvc repro split`") from None
    image_M = np.array(read_split(folder / "train.json").caption_image)
    return Noise(permutation_M, true_image_M, true_image_M != image_M, ratio)


def read_truth(folder: Path, split: str) -> Truth | None:
    """The data set's own truth, the first of `read_truths`, or None."""
    return next((truth for source, truth in read_truths(folder, split).items() if source != JUDGED), None)
