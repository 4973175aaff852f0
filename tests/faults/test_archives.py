"""Archives made to do harm: refused by name, with the limit that a parameter can raise, before memory is asked for."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from pipeline.data.acquire.cache import Store
from pipeline.data.acquire.layouts import ImageFiles, files_in_archive
from pipeline.data.acquire.sources import Item
from pipeline.data.archives import check_archive, open_archive
from pipeline.errors import InputError
from pipeline.params import LimitsParams
from tests.data.published import LIMITS

MEBI = 1 << 20


def raised(**limits: float) -> LimitsParams:
    return LIMITS.model_copy(update=limits)


def with_member(path: Path, mode: int, content: bytes = b"x", kind: int = zipfile.ZIP_STORED) -> Path:
    member = zipfile.ZipInfo("a/b.jpg")
    member.create_system, member.external_attr, member.compress_type = 3, mode << 16, kind
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (stat.S_IFLNK, "is a link"),
        (stat.S_IFCHR, "is a device"),
        (stat.S_IFBLK, "is a device"),
        (stat.S_IFIFO, "a pipe"),
        (stat.S_IFSOCK, "a socket"),
    ],
)
def test_what_is_no_plain_file_is_refused(mode: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"a\.zip: member 'a/b\.jpg' .*{said}"):
        open_archive(with_member(tmp_path / "a.zip", mode | 0o644))


@pytest.mark.parametrize("mode", [0, 0o644, stat.S_IFREG | 0o644])
def test_a_plain_file_is_read(mode: int, tmp_path: Path) -> None:
    check_archive(with_member(tmp_path / "a.zip", mode), limits=LIMITS)


def test_a_packing_that_reserves_memory_is_refused(tmp_path: Path) -> None:
    path = with_member(tmp_path / "a.zip", 0o644, kind=zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match="packed by method 14; only stored and deflated"):
        open_archive(path)


def many(path: Path, members: int, declared: int | None = None, comment: bytes = b"") -> Path:
    """An archive whose directory names one and the same empty file again and again, and may lie about how often."""
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = min(members if declared is None else declared, 0xFFFF)
    directory = entry * members
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(local), len(comment))
    path.write_bytes(local + directory + end + comment)
    return path


@pytest.mark.parametrize("declared", [None, 1])
def test_a_million_members_are_refused_before_they_are_read(
    declared: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many(tmp_path / "a.zip", 1_000_000, declared)
    monkeypatch.delattr("zipfile.ZipFile")  # which would take a gigabyte of memory
    with pytest.raises(InputError, match=r"a\.zip: more than 300000 members; raise data\.limits\.members"):
        open_archive(path, limits=LIMITS)


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_the_limit_of_members_is_a_parameter(comment: bytes, tmp_path: Path) -> None:
    path = many(tmp_path / "a.zip", 11, comment=comment)
    with pytest.raises(InputError, match="more than 10 members"):
        open_archive(path, limits=raised(members=10))
    open_archive(path, limits=raised(members=11)).close()


def test_members_are_counted_in_archives_beyond_4_gib_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)  # from here on zipfile writes them
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(11):
            archive.writestr(f"{number}.txt", "")
    assert b"PK\6\6" in (tmp_path / "a.zip").read_bytes()
    with pytest.raises(InputError, match="more than 10 members"):
        open_archive(tmp_path / "a.zip", limits=raised(members=10))
    open_archive(tmp_path / "a.zip", limits=raised(members=11)).close()


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 MiB of zeros in 20 kB."""
    path = tmp_path_factory.mktemp("bomb") / "a.zip"
    return with_member(path, 0o644, bytes(20 * MEBI), zipfile.ZIP_DEFLATED)


def test_a_bomb_is_refused_and_its_limit_is_a_parameter(bomb: Path) -> None:
    with pytest.raises(InputError, match=r"'a/b\.jpg' unpacks from \d+ to 20971520 bytes.*200.*data\.limits\.ratio"):
        open_archive(bomb, limits=LIMITS)
    check_archive(bomb, limits=raised(ratio=2000))


def test_a_large_member_is_refused_and_its_limit_is_a_parameter(bomb: Path) -> None:
    with pytest.raises(InputError, match=r"has 20971520 bytes; at most 19922944 .*data\.limits\.member_mb"):
        open_archive(bomb, limits=raised(member_mb=19))


def test_the_whole_is_limited_too(bomb: Path) -> None:
    with pytest.raises(InputError, match=r"a\.zip: unpacks to 20971520 bytes; at most 0\.01 GiB.*unpacked_gb"):
        open_archive(bomb, limits=raised(unpacked_gb=0.01, ratio=2000))


def test_many_small_members_that_share_their_bytes_are_a_bomb(tmp_path: Path) -> None:
    """Each unpacks to less than a bomb would, and to no more of its bytes than is allowed."""
    path = with_member(tmp_path / "a.zip", 0o644, bytes(MEBI), zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    times = 30
    record = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, times, times, (end - start) * times, start, 0)
    path.write_bytes(content[:start] + content[start:end] * times + record)
    with pytest.raises(InputError, match=r"a\.zip: unpacks from \d+ to 31457280 bytes.*data\.limits\.ratio"):
        open_archive(path, limits=LIMITS)


def test_a_member_that_is_larger_than_it_says_is_damaged(bomb: Path, tmp_path: Path) -> None:
    content = bytearray(bomb.read_bytes())
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<L", content, content.index(mark) + place, 100)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        check_archive(tmp_path / "a.zip", limits=LIMITS)


def test_every_way_in_has_the_limits(bomb: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.zip").write_bytes(bomb.read_bytes())
    with pytest.raises(InputError, match=r"data\.limits\.ratio"):
        Store(tmp_path / "kept", root, None, LIMITS).get(Item("a.zip", "https://example.org/a.zip"))
    with pytest.raises(InputError, match=r"data\.limits\.ratio"):
        files_in_archive(bomb, LIMITS)
    with pytest.raises(InputError, match=r"data\.limits\.ratio"):
        ImageFiles(str).add_archive(bomb, LIMITS)
