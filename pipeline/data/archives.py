"""ZIP archives from elsewhere: opened only when whole and when no member could reach outside of it."""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError

MEMBER_BYTES = 1 << 30  # no image or annotation file published is near this; a member that claims more is a bomb
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)  # what zipfile raises on damaged content


def checked_name(name: str, place: str) -> str:
    """The name, with `/` between its parts and nothing redundant, if it stays inside the folder it is relative to.

    Raises:
        InputError: naming `place`, for an empty or absolute name, `..`, a backslash or a NUL.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"\\|\0|^[A-Za-z]:", name):
        raise InputError(
            f"{place}: the name {name!r} leaves its folder; allowed are relative names such as 'a/b.jpg' without '..'"
        )
    return "/".join(parts)


def open_archive(path: Path, label: str | None = None) -> zipfile.ZipFile:
    """Open a ZIP archive for reading; `label` names it in errors where its path would not.

    Raises:
        InputError: naming the archive, for one that is cut off or no ZIP, and the member, for an absolute name,
            `..`, a link, an encrypted member or one beyond any plausible size.
    """
    label = label or str(path)
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise InputError(f"{label}: not a whole ZIP archive (cut off?): {error}") from None
    try:
        for member in archive.infolist():
            place = f"{label}: member {member.filename!r}"
            checked_name(member.filename, label)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(f"{place} is a link; only plain files and folders are allowed")
            if member.flag_bits & 1:
                raise InputError(f"{place} is encrypted; only plain files and folders are allowed")
            if member.file_size > MEMBER_BYTES:
                raise InputError(f"{place} has {member.file_size} bytes; at most {MEMBER_BYTES} are allowed")
    except InputError:
        archive.close()
        raise
    return archive


def check_archive(path: Path, label: str | None = None) -> None:
    """Read an archive whole, as `open_archive` allows it, and compare every member with its checksum.

    Raises:
        InputError: naming the archive and the first damaged member.
    """
    label = label or str(path)
    with open_archive(path, label) as archive:
        try:
            damaged = archive.testzip()
        except BROKEN as error:
            raise InputError(f"{label}: damaged archive: {error}") from None
    if damaged is not None:
        raise InputError(f"{label}: damaged archive: the checksum of member {damaged!r} does not match")
