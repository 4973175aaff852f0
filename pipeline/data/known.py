"""Reading the truth that stage `split` wrote, where a data set knows more than its pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.paths import TRUTH, TRUTH_KIND

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The relevance from which a pair counts as a match. A source that was asked of images and of captions apart is stored
# as two, `eccv_i2t` and `eccv_t2i`, and read as one.
TRUE_FROM = {"scenes": 1.0, "crowd": 0.5, "expert": 3.0, "eccv": 1.0, "cxc": 1.0}
UNLISTED_IS_FALSE = ("exact", "pooled")
DIRECTIONS = ("i2t", "t2i")


@dataclass(frozen=True)
class Truth:
    """P pairs of one split that somebody, or a grammar, has judged."""

    exact: bool
    """True: a pair that is not listed, of a query that has a true one, is false. False: it is unknown."""
    how: str
    image_P: NDArray[np.int64]
    caption_P: NDArray[np.int64]
    true_P: NDArray[np.bool_]
    asked_P: Mapping[str, NDArray[np.bool_]]
    """By direction, i2t and t2i: whether the pair answers the image, or the caption, as a query."""


def read_truths(folder: Path, split: str) -> dict[str, Truth]:
    """What is known of a split's pairs, by source; the first is the one to go by. Empty where nothing is known.

    Raises:
        InputError: when the files are there but cannot be read.
    """
    import pandas

    kind_path, table_path = folder / TRUTH_KIND.name, folder / TRUTH.name
    if not kind_path.exists():
        return {}
    try:
        kind = json.loads(kind_path.read_text(encoding="utf-8"))
        exact, how = kind["kind"] in UNLISTED_IS_FALSE, str(kind["how"])
        table = pandas.read_parquet(table_path)
        table = table[table["split"] == split]
        parts = table["source"].str.extract("^([^_]*)_?(.*)$")
        name, side = parts[0], parts[1]  # no side: asked both ways
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
        return truths
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{table_path} or {kind_path.name}: not readable ({error}); run `dvc repro split`") from None


def read_truth(folder: Path, split: str) -> Truth | None:
    """The first of `read_truths`, None where nothing is known."""
    return next(iter(read_truths(folder, split).values()), None)
