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
class Unsure:
    """U pairs of one split that the person was unsure of: nothing is known about them, but they have been looked at."""

    image_U: NDArray[np.int64]
    caption_U: NDArray[np.int64]
    own_U: NDArray[np.bool_]
    proposed_U: NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """J answered pairs of one split; those that the person was unsure of are apart."""

    image_J: NDArray[np.int64]
    caption_J: NDArray[np.int64]
    match_J: NDArray[np.bool_]
    own_J: NDArray[np.bool_]
    """Whether the data set pairs the two."""
    proposed_J: NDArray[np.bool_]
    """Whether the page had drawn the pair at random within its stratum; the others were chosen by hand."""
    unsure: Unsure | None = None


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
    table = table[table["split"] == split]
    image_R, caption_R = (table[name].to_numpy("int64") for name in ("image", "caption"))
    own_R, proposed_R = (table[name].to_numpy(bool) for name in ("own", "proposed"))
    match_R = table["match"].to_numpy()
    known_R, open_R = match_R >= 0, match_R < 0  # as indices they copy: torch warns of arrays that cannot be written
    unsure = Unsure(image_R[open_R], caption_R[open_R], own_R[open_R], proposed_R[open_R])
    return Judged(
        image_R[known_R], caption_R[known_R], match_R[known_R] == 1, own_R[known_R], proposed_R[known_R], unsure
    )
