"""Archives from elsewhere are opened only if whole, and if no member could reach outside."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.data.archives import check_archive, checked_name, open_archive
from pipeline.errors import InputError
from tests.data.published import LIMITS, write_zip


@pytest.mark.parametrize(
    "name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "", ".", "a\\..\\x.jpg", "C:/x.jpg", "a\0b"]
)
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="leaves its folder"):
        checked_name(name, "captions.csv")


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b.jpg", "a/b.jpg"), ("./a//b.jpg", "a/b.jpg"), ("..a.jpg", "..a.jpg")]
)
def test_any_other_name_is_kept_without_what_is_redundant(name: str, expected: str) -> None:
    assert checked_name(name, "captions.csv") == expected


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../b"])
def test_an_archive_with_such_a_member_is_refused(name: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"good.jpg": b"", name: b""})
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
