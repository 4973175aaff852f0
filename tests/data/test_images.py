"""The archive that holds the images; `tests/faults/test_images.py` has what decodes and what is refused."""

from __future__ import annotations

import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline.data.images import ImageArchive, is_image, write_images
from pipeline.errors import InputError
from tests.data.published import jpeg


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("b/A.JPEG", True),
        ("a.txt", False),
        ("._a.jpg", False),
        ("__MACOSX/a.jpg", False),
        ("a.jpg.1", False),
    ],
)
def test_images_are_known_by_their_names(name: str, expected: bool) -> None:
    assert is_image(name) is expected


@pytest.fixture
def archive(tmp_path: Path) -> ImageArchive:
    write_images(tmp_path / "images.zip", [(f"{number}.jpg", jpeg(number)) for number in range(4)])
    return ImageArchive(tmp_path / "images.zip")


def test_an_archive_gives_back_the_very_bytes_uncompressed(archive: ImageArchive) -> None:
    assert archive.names == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert archive.read("2.jpg") == jpeg(2)
    assert archive.decode("2.jpg").size == (34, 24)
    assert {member.compress_type for member in zipfile.ZipFile(archive.path).infolist()} == {zipfile.ZIP_STORED}


def test_an_image_that_is_not_there_or_does_not_decode_is_named(archive: ImageArchive) -> None:
    with pytest.raises(InputError, match=r"holds no image '9\.jpg'"):
        archive.read("9.jpg")
    write_images(archive.path, [("bad.jpg", b"x")])
    with pytest.raises(InputError, match=r"images\.zip: bad\.jpg: does not decode"):
        ImageArchive(archive.path).decode("bad.jpg")
    with pytest.raises(InputError, match="`dvc repro download` makes it"):
        ImageArchive(archive.path.with_name("none.zip")).read("0.jpg")


def _sizes(archive: ImageArchive) -> list[int]:
    return [archive.decode(name).width for name in archive.names]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.end_to_end)])
def test_worker_processes_read_the_archive_that_their_parent_had_open(archive: ImageArchive, method: str) -> None:
    expected = _sizes(archive)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert list(pool.map(_sizes, [archive] * 4)) == [expected] * 4
