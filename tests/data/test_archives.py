"""Archives from elsewhere are opened only if whole, within the limits, and if no member could reach outside."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from pipeline.data.acquire.cache import Store
from pipeline.data.acquire.layouts import ImageFiles, files_in_archive
from pipeline.data.acquire.sources import Item
from pipeline.data.archives import check_archive, checked_name, open_archive
from pipeline.errors import InputError
from tests.data.published import LIMITS, write_zip


@pytest.mark.parametrize(
    "name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "", ".", "a\\..\\x.jpg", "C:/x.jpg", "a\0b"]
)
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"leaves its folder; .* without '\.\.' and without a backslash$"):
        checked_name(name, "captions.csv")


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b.jpg", "a/b.jpg"), ("./a//b.jpg", "a/b.jpg"), ("..a.jpg", "..a.jpg")]
)
def test_any_other_name_is_kept_without_what_is_redundant(name: str, expected: str) -> None:
    assert checked_name(name, "captions.csv") == expected


def test_an_archive_with_such_a_member_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"good.jpg": b"", "../x.jpg": b""})
    with pytest.raises(InputError, match="leaves its folder"):
        open_archive(tmp_path / "a.zip", limits=LIMITS)


def test_a_member_with_a_password_is_damaged(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.jpg": b"secret"})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"damaged archive: .*encrypted"):
        check_archive(tmp_path / "a.zip")


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("good.txt", "good")
        archive.writestr("bad.txt", "the content")
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"the content", b"the Content"))
    open_archive(tmp_path / "a.zip").close()
    with pytest.raises(InputError, match=r"bad\.txt"):
        check_archive(tmp_path / "a.zip")


@pytest.mark.parametrize("length", [0, 10, 100])
def test_an_archive_that_is_cut_off_is_refused(length: int, tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.txt": "text" * 1000, "b.txt": "text"})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:length])
    with pytest.raises(InputError, match=r"a\.zip: not a whole ZIP archive"):
        open_archive(tmp_path / "a.zip")


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 MiB of zeros in 20 kB, and a small member."""
    path = tmp_path_factory.mktemp("bomb") / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.jpg", bytes(20 << 20))
        archive.writestr("c.txt", "text")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"\d+\.?\d* unpacked bytes a packed one, at most 200 are allowed; raise data\.limits\.ratio"),
        ({"members": 1}, r"2 members, at most 1 are allowed; raise data\.limits\.members"),
        ({"member_mb": 19}, r"20 MiB in one member, at most 19 are allowed; raise data\.limits\.member_mb"),
        ({"unpacked_gb": 0.01}, r"0\.0195\d* GiB unpacked, at most 0\.01 are allowed; raise data\.limits\.unpacked_gb"),
    ],
)
def test_each_limit_is_a_parameter(changes: dict[str, float], said: str, bomb: Path) -> None:
    with pytest.raises(InputError, match=rf"a\.zip: {said}$"):
        open_archive(bomb, limits=LIMITS.model_copy(update=changes))
    enough = {"members": 2, "member_mb": 20, "unpacked_gb": 0.02, "ratio": 2000}
    check_archive(bomb, limits=LIMITS.model_copy(update=enough))


def test_many_small_members_that_share_their_bytes_are_a_bomb(tmp_path: Path) -> None:
    path, times = tmp_path / "a.zip", 30
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1 << 20))
    content = path.read_bytes()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    record = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, times, times, (end - start) * times, start, 0)
    path.write_bytes(content[:start] + content[start:end] * times + record)
    with pytest.raises(InputError, match=r"a\.zip: .*data\.limits\.ratio"):
        open_archive(path, limits=LIMITS)


def test_a_member_that_is_larger_than_it_says_is_damaged(bomb: Path, tmp_path: Path) -> None:
    content = bytearray(bomb.read_bytes())
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<L", content, content.index(mark) + place, 100)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        check_archive(tmp_path / "a.zip", limits=LIMITS)


def test_every_way_in_has_the_limits(bomb: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.limits\.ratio"):
        Store(tmp_path / "kept", bomb.parent, None, LIMITS).get(Item("a.zip", "https://example.org/a.zip"))
    with pytest.raises(InputError, match=r"data\.limits\.ratio"):
        files_in_archive(bomb, LIMITS)
    with pytest.raises(InputError, match=r"data\.limits\.ratio"):
        ImageFiles(str).add_archive(bomb, LIMITS)
