"""Read a person's judgments of pairs that stage `split` wrote (see `pipeline.data.splits.judgments`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.paths import JUDGMENTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("split", "image", "caption", "match", "own", "proposed")
"""Of judgments.parquet; `image` and `caption` are rows of the split, `match` is 1, 0, or -1 for unsure."""


@dataclass(frozen=True)
class Judged:
    """J answered pairs of one split; those that the person was unsure of are left out."""

    image_J: NDArray[np.int64]
    caption_J: NDArray[np.int64]
    match_J: NDArray[np.bool_]
    own_J: NDArray[np.bool_]
    """Whether the data set pairs the two."""
    proposed_J: NDArray[np.bool_]
    """Whether the page had drawn the pair at random within its stratum; the others were chosen by hand."""


def read_judged(folder: Path, split: str) -> Judged | None:
    """The answers about one split's pairs; None without `data.judgments`.

    Raises:
        InputError: when the file exists but cannot be read.
    """
    import pandas

    path = folder / JUDGMENTS.name
    if not path.exists():
        return None
    try:
        table = pandas.read_parquet(path)[list(COLUMNS)]
    except Exception as error:  # Arrow's reader raises many types on a damaged file
        raise InputError(f"{path}: not readable ({error}); run `dvc repro split`") from None
    table = table[(table["split"] == split) & (table["match"] >= 0)]
    return Judged(
        table["image"].to_numpy("int64", copy=True),  # torch warns of arrays that cannot be written
        table["caption"].to_numpy("int64", copy=True),
        table["match"].to_numpy() == 1,
        table["own"].to_numpy(bool, copy=True),
        table["proposed"].to_numpy(bool, copy=True),
    )
