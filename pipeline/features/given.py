"""Vectors that somebody else's model made, as if stage `features` had made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from pipeline.data.splits.format import Split
from pipeline.errors import InputError
from pipeline.features.shards import write_shards

ARRAYS = {"image": "image_name", "text": "caption"}
"""The two arrays of vectors, and those that say whose vector each row is."""


def write_given(folder: Path, splits: Mapping[str, Split], file: Path) -> None:
    """Write the vectors in an `.npz` as frozen features of the splits.

    The file holds `image` (N, W) with `image_name` (N,), and `text` (M, V) with `caption` (M,), the caption's text.
    Names and texts are those of the data set, in any order; blanks around them do not count, as the reader of captions
    strips them. What the data set lacks is left out.

    Raises:
        InputError: for an array that is missing or of a wrong shape or type, a number that is not finite, or an image
            or a caption of the data set without a vector.
    """
    arrays = _read(file)
    for side, kind in (("image", "images"), ("text", "captions")):
        row_of = {name.strip(): row for row, name in enumerate(arrays[ARRAYS[side]].tolist())}
        for split, content in splits.items():
            wanted = [name.strip() for name in getattr(content, kind)]
            missing = next((name for name in wanted if name not in row_of), None)
            if missing is not None:
                raise InputError(f"{file}: {ARRAYS[side]}: no vector of {missing[:80]!r}, which the data set has")
            row_NW = torch.from_numpy(arrays[side][[row_of[name] for name in wanted]]).float()

            def make(rows: range, row_NW: torch.Tensor = row_NW) -> dict[str, torch.Tensor]:
                return {"feature": row_NW[rows.start : rows.stop]}

            write_shards(folder / split, kind, len(wanted), make, iter)


def _read(file: Path) -> dict[str, np.ndarray]:
    expected = ", ".join(f"{side} with {names}" for side, names in ARRAYS.items())
    try:
        if file.suffix == ".npy":
            raise ValueError("a .npy file holds one array")
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for pair in ARRAYS.items() for name in pair}
    except KeyError as error:
        raise InputError(f"{file}: {error}; expected {expected}") from None
    except Exception as error:  # numpy and zipfile raise many types on a damaged file
        raise InputError(f"{file}: not readable as .npz: {error}; expected {expected}") from None
    for side, names in ARRAYS.items():
        vectors, labels = arrays[side], arrays[names]
        if vectors.ndim != 2 or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
            raise InputError(
                f"{file}: {side}: shape {vectors.shape}, type {vectors.dtype}; expected a row of finite numbers each"
            )
        if labels.shape != (len(vectors),) or labels.dtype.kind != "U":
            raise InputError(
                f"{file}: {names}: shape {labels.shape}, type {labels.dtype}; expected a text for each row of {side}"
            )
    return arrays
