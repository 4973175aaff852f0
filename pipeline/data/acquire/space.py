"""Room on the disk, asked for before a long write instead of found missing in the middle of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.errors import InputError

RESERVE_BYTES = 64 << 20  # what the rest of a stage writes, and what a file system keeps back


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Check that the file system of `folder`, which need not exist yet, has room for `needed_bytes` more.

    Raises:
        InputError: saying what is missing, where, and for what.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes + RESERVE_BYTES:
        raise InputError(
            f"{folder}: no space left for {purpose}: {_mebibytes(needed_bytes + RESERVE_BYTES)} needed, "
            f"{_mebibytes(free_bytes)} free; nothing was changed"
        )


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
