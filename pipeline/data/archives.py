"""ZIP archives from outside: opened only if complete, with safe names, and within `data.limits`."""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError
from pipeline.params import LimitsParams

SMALL_BYTES = 16 << 20  # below this unpacked size, the compression ratio is not checked
# What zipfile raises on damaged content: also a negative offset, a name that is not text, a password.
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, MemoryError),
    *(OSError, RuntimeError, ValueError),
)


def checked_name(name: str, place: str) -> str:
    """The normalised name, with `/` between its parts, if it stays inside the folder that it is relative to.

    Raises:
        InputError: naming `place`, for an empty or absolute name, `..`, a backslash or a NUL.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"\\|\0|^[A-Za-z]:", name):
        raise InputError(
            f"{place}: the name {name!r} leaves its folder; allowed are relative names such as 'a/b.jpg' without '..' "
            "and without a backslash"
        )
    return "/".join(parts)


def open_archive(path: Path, label: str | None = None, limits: LimitsParams | None = None) -> zipfile.ZipFile:
    """Open a ZIP archive for reading; `label` names it in errors where its path would not.

    `limits` is `data.limits`; None for the archive that the pipeline packed itself.

    Raises:
        InputError: naming the archive, if it is cut off or not a ZIP, the member whose name leaves the folder, or the
            limit that it exceeds.
    """
    label = label or str(path)
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"{label}: not found") from None
    except BROKEN as error:
        raise InputError(f"{label}: not a whole ZIP archive (cut off?): {error}") from None
    if limits is not None:
        try:
            _check(archive.infolist(), path.stat().st_size, label, limits)
        except InputError:
            archive.close()
            raise
    return archive


def check_archive(path: Path, label: str | None = None, limits: LimitsParams | None = None) -> None:
    """Read an archive completely, within the limits of `open_archive`, and verify every member's checksum.

    Raises:
        InputError: naming the archive and the first damaged member.
    """
    label = label or str(path)
    with open_archive(path, label, limits) as archive:
        try:
            damaged = archive.testzip()
        except BROKEN as error:
            raise InputError(f"{label}: damaged archive: {error}") from None
    if damaged is not None:
        raise InputError(f"{label}: damaged archive: the checksum of member {damaged!r} does not match")


def _check(members: list[zipfile.ZipInfo], packed: int, label: str, limits: LimitsParams) -> None:
    """Compare the sizes that members declare with the limits; no more than a declared size is ever read."""
    sizes = [member.file_size for member in members]
    unpacked = sum(sizes)
    for name, found, most, of in (
        ("members", len(sizes), limits.members, "members"),
        ("member_mb", max(sizes, default=0) / (1 << 20), limits.member_mb, "MiB in one member"),
        ("unpacked_gb", unpacked / (1 << 30), limits.unpacked_gb, "GiB unpacked"),
        ("ratio", unpacked / packed if unpacked > SMALL_BYTES else 0, limits.ratio, "unpacked bytes a packed one"),
    ):
        if found > most:
            raise InputError(f"{label}: {found:.6g} {of}, at most {most:g} are allowed; raise data.limits.{name}")
    for member in members:
        checked_name(member.filename, label)
