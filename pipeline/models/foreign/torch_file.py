"""Files that `torch.save` wrote, read without running anything in them, and for the memory of what they hold."""

from __future__ import annotations

import mmap
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from pipeline.models.foreign.torch_pickle import PickleScan, Refused

ARCHIVE = b"PK\x03\x04"
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # a pickled number, before torch 1.6
PICKLES = 4  # after it: the protocol, the machine, the content, the names of its storages
MOST_PICKLED = 64 << 20  # bytes; a thousand tensors take a fifth of one million
MOST_LISTED = 8 << 20  # bytes of an archive's directory; a member takes some hundred

_END = struct.Struct("<4s4H2IH")  # an archive's last bytes
_LOCATOR = struct.Struct("<4sIQI")  # and what stands before them where numbers of 64 bits are needed
_END_64 = struct.Struct("<4sQ2H2I4Q")


def load_torch_file(path: Path) -> Any:
    """Tensors (on the CPU) and plain values; classes beside them only within `torch.serialization.safe_globals`.

    Raises:
        Refused: naming what the file asks for that no checkpoint needs.
        Exception: of almost any kind, when the file is damaged, hostile or something else.
    """
    size = path.stat().st_size
    scan = PickleScan(size)
    with open(path, "rb") as handle:
        is_archive = handle.read(len(ARCHIVE)) == ARCHIVE  # as torch asks; zipfile looks at a file's end
    if is_archive:
        _check_archive(path, size)
        # by torch's own reader, for what another would find under this name might be another pickle
        scan.follow(BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
        return torch.load(path, map_location="cpu", weights_only=True)
    # The layout before torch 1.6 has no directory. A text in it says how long it is: an open file sets as much memory
    # aside before it finds that there is no more to read, a mapped one does not.
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        pickles = BytesIO(content[:MOST_PICKLED])
        if pickles.read(len(MAGIC)) != MAGIC:
            raise ValueError("it has not the first bytes of a checkpoint")
        for _ in range(PICKLES):
            scan.follow(pickles)
        return torch.load(content, map_location="cpu", weights_only=True)  # type: ignore[arg-type]


def _check_archive(path: Path, size: int) -> None:
    """Refuse what would take more memory than the file is long."""
    _check_end(path, size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.orig_filename.endswith("/constants.pkl") for member in members):
        raise Refused("a TorchScript archive, which is a program; save its state_dict() by torch.save, and give that")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Refused("its members are compressed, which torch.save does not do")
    if sum(member.file_size for member in members) > size:
        raise Refused("its members are longer together than the file")
    if any(member.file_size > MOST_PICKLED for member in members if member.orig_filename.lower().endswith(".pkl")):
        raise Refused(f"its pickle is longer than {MOST_PICKLED} bytes")


def _check_end(path: Path, size: int) -> None:
    """Refuse an end in which torch could find another directory than zipfile does, and one that is too long."""
    with open(path, "rb") as handle:
        handle.seek(max(0, size - _END.size - _LOCATOR.size - _END_64.size))
        tail = handle.read()
    sign, *_, length, start, comment = _END.unpack(tail[-_END.size :])
    if sign != b"PK\x05\x06" or comment:
        raise ValueError("it has not the last bytes of an archive")
    end = size - _END.size
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator.startswith(b"PK\x06\x07"):
        end -= _LOCATOR.size + _END_64.size
        sign, *_, length, start = _END_64.unpack(tail[: _END_64.size])
        if sign != b"PK\x06\x06" or _LOCATOR.unpack(locator)[2] != end:
            raise ValueError("it has not the last bytes of an archive")
    if start + length != end:
        raise ValueError("its directory does not stand before its end")
    if length > MOST_LISTED:
        raise Refused(f"its directory is longer than {MOST_LISTED} bytes")
