"""The closed-form alignment as a file: what stage `evidence` writes, and heads with `model.anchor` read."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError
from pipeline.evidence.alignment import Alignment
from pipeline.files import read_tensors, write_tensors
from pipeline.paths import ALIGNMENT


def write_alignment(folder: Path, alignment: Alignment) -> None:
    """Write `alignment` into `folder`, in float64."""
    write_tensors(folder / ALIGNMENT.name, alignment.state_dict())


def read_alignment(folder: Path) -> Alignment:
    """What `write_alignment` wrote.

    Raises:
        InputError: when it is missing or damaged.
    """
    path = folder / ALIGNMENT.name
    try:
        return Alignment.from_state_dict(read_tensors(path, "evidence"))
    except KeyError as error:
        raise InputError(f"{path}: holds no {error}; `dvc repro evidence` makes it again") from None
