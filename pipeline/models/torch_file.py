"""Files that `torch.save` wrote, read without running anything in them, and for the memory of what they hold."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import torch

ARCHIVE = b"PK\x03\x04"


def load_torch_file(path: Path) -> Any:
    """Tensors (on the CPU) and plain values; classes beside them only within `torch.serialization.safe_globals`.

    Raises:
        Exception: of almost any kind, when the file is damaged, hostile or something else.
    """
    with open(path, "rb") as handle:
        is_archive = handle.read(len(ARCHIVE)) == ARCHIVE  # as torch asks; zipfile looks at a file's end
    if is_archive:
        return torch.load(path, map_location="cpu", weights_only=True)
    # The layout before torch 1.6 has no directory. A text in it says how long it is: an open file sets as much memory
    # aside before it finds that there is no more to read, a mapped one does not.
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return torch.load(content, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
