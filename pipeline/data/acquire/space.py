"""Check the free disk space before a long write."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.errors import InputError

RESERVE_BYTES = 64 << 20  # for the rest of a stage, and for the file system


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Check that the file system of `folder` (which need not exist yet) has `needed_bytes` of free space.

    Raises:
        InputError: naming the missing space, the place, and the purpose.
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
