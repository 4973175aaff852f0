"""Images as bytes: what decodes, what is refused, and the archive that holds them."""

from __future__ import annotations

import io
import pickle
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.images import ImageArchive, check_image, decode, is_image, write_images
from pipeline.errors import InputError
from tests.data.published import jpeg


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    content = encoded(Image.new("RGB", (5, 4), "red").convert(mode), "TIFF")
    assert (decode(content, "x").mode, decode(content, "x").size) == ("RGB", (5, 4))


def test_a_picture_taken_sideways_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    picture = Image.new("RGB", (4, 8), "black")
    picture.paste((255, 255, 255), (0, 0, 4, 4))
    upright = decode(encoded(picture, "PNG", exif=exif), "x")
    assert upright.size == (8, 4)
    assert upright.getpixel((7, 0)) == (255, 255, 255)


BROKEN = {
    "cut off": jpeg(1)[:-80],
    "png cut off": encoded(Image.effect_noise((40, 40), 50))[:-300],
    "png damaged": encoded(Image.effect_noise((40, 40), 50)).replace(b"IDAT", b"IDAX"),
    "empty": b"",
    "text": b"<html>404</html>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_what_does_not_decode_is_named(content: bytes) -> None:
    for check in (decode, check_image):
        with pytest.raises(InputError, match=r"a/b\.jpg: does not decode: "):
            check(content, "a/b.jpg")


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.images.MAX_PIXELS", 99)
    with pytest.raises(InputError, match="10 × 10 pixels, at most 99"):
        decode(encoded(Image.new("RGB", (10, 10))), "x")


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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_archive_that_their_parent_had_open(archive: ImageArchive, method: str) -> None:
    expected = _sizes(archive)
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        assert list(pool.map(_sizes, [archive] * 4)) == [expected] * 4


def test_an_open_archive_can_be_pickled(archive: ImageArchive) -> None:
    archive.read("0.jpg")
    assert pickle.loads(pickle.dumps(archive)).read("1.jpg") == jpeg(1)  # noqa: S301 (our own bytes)
