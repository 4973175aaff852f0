"""ZIP archives from elsewhere: opened only when whole, of a plausible size, and with no member that reaches outside."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import InputError
from pipeline.params import LimitsParams

MEMBER_BYTES = 1 << 30  # of an archive without other limits: no image comes near
ENTRY_BYTES = 256  # of a member's entry in the directory, on average; the names published take half of that
SMALL_BYTES = 16 << 20  # what unpacks to less harms nobody, however well it was packed
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA sets memory aside as a member's header says
# What zipfile raises on damaged content: also a place before the file's start, and a name that is no text.
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError, ValueError)


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


def open_archive(path: Path, label: str | None = None, limits: LimitsParams | None = None) -> zipfile.ZipFile:
    """Open a ZIP archive for reading; `label` names it in errors where its path would not.

    `limits` is `data.limits`; None is for the archive that the pipeline packed itself.

    Raises:
        InputError: naming the archive, for one that is cut off, no ZIP, or beyond a limit, and the member, for an
            absolute name, `..`, a link, a device, an encrypted member, a rare packing or one beyond any plausible size.
    """
    label = label or str(path)
    try:
        if limits is not None:
            _limit_members(path, label, limits)
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"{label}: not found") from None
    except BROKEN as error:
        raise InputError(f"{label}: not a whole ZIP archive (cut off?): {error}") from None
    try:
        for member in archive.infolist():
            _check_member(member, label, limits)
        if limits is not None:
            _limit_whole(archive, label, limits)
    except InputError:
        archive.close()
        raise
    return archive


def check_archive(path: Path, label: str | None = None, limits: LimitsParams | None = None) -> None:
    """Read an archive whole, as `open_archive` allows it, and compare every member with its checksum.

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


def _limit_members(path: Path, label: str, limits: LimitsParams) -> None:
    """Count the members before zipfile makes an object of each: a million of them take a gigabyte of memory."""
    with open(path, "rb") as handle:
        end: Any = zipfile._EndRecData(handle)  # type: ignore[attr-defined]  # what ZipFile itself goes by
        if not end:
            return
        size, place = end[zipfile._ECD_SIZE], end[zipfile._ECD_LOCATION]  # type: ignore[attr-defined]
        too_many = size > limits.members * ENTRY_BYTES
        if not too_many and size <= place:
            # it ends where the record stands that was found, before the two that archives beyond 4 GiB add
            handle.seek(max(0, place - size - 128))
            too_many = handle.read(size + 128).count(b"PK\x01\x02") > limits.members
    if too_many:
        raise InputError(f"{label}: more than {limits.members} members; raise data.limits.members to allow them")


def _check_member(member: zipfile.ZipInfo, label: str, limits: LimitsParams | None) -> None:
    place = f"{label}: member {member.filename!r}"
    checked_name(member.filename, label)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "a device, a pipe or a socket"
        raise InputError(f"{place} is {what}; only plain files and folders are allowed")
    if member.flag_bits & 1:
        raise InputError(f"{place} is encrypted; only plain files and folders are allowed")
    if member.compress_type not in PACKINGS:
        raise InputError(f"{place} is packed by method {member.compress_type}; only stored and deflated are allowed")
    most = MEMBER_BYTES if limits is None else limits.member_mb << 20
    if member.file_size > most:
        how = "" if limits is None else "; raise data.limits.member_mb to allow it"
        raise InputError(f"{place} has {member.file_size} bytes; at most {most} are allowed{how}")
    if limits is not None and _is_bomb(member.file_size, member.compress_size, limits):
        raise InputError(
            f"{place} unpacks from {member.compress_size} to {member.file_size} bytes; at most "
            f"{limits.ratio:g} times as many are allowed; raise data.limits.ratio to allow it"
        )


def _limit_whole(archive: zipfile.ZipFile, label: str, limits: LimitsParams) -> None:
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > limits.unpacked_gb * (1 << 30):
        raise InputError(
            f"{label}: unpacks to {unpacked} bytes; at most {limits.unpacked_gb:g} GiB are allowed; raise "
            "data.limits.unpacked_gb to allow them"
        )
    packed = Path(str(archive.filename)).stat().st_size  # not what members say: they may share their bytes
    if _is_bomb(unpacked, packed, limits):
        raise InputError(
            f"{label}: unpacks from {packed} to {unpacked} bytes; at most {limits.ratio:g} times as many are allowed; "
            "raise data.limits.ratio to allow it"
        )


def _is_bomb(unpacked: int, packed: int, limits: LimitsParams) -> bool:
    return unpacked > SMALL_BYTES and unpacked > packed * limits.ratio
