"""Pictures as they come: each decodes to what a person would see, or is refused by name; what is decided is here."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.images import MAX_PIXELS, MAX_SCANS, check_image, decode
from pipeline.errors import InputError
from tests.data.published import jpeg
from tests.faults.guard import bounded

RED, WHITE = (255, 0, 0), (255, 255, 255)
ORIENTATION = 0x0112
# What turns an upright picture into the one that is stored with this orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def pixels(content: bytes) -> NDArray[numpy.uint8]:
    check_image(content, "x")
    picture = decode(content, "x")
    assert picture.mode == "RGB"
    return numpy.asarray(picture)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_applied_once(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste(WHITE, (0, 0, 16, 8))  # the top left quarter: every turn and every mirror shows
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    found = pixels(encoded(upright if turn is None else upright.transpose(turn), kind, exif=exif))
    assert found.shape == (16, 32, 3)
    assert abs(found.astype(int) - numpy.asarray(upright)).mean() < 5  # JPEG and WebP lose a little


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_changes_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert pixels(encoded(Image.new("RGB", (8, 4)), "PNG", exif=exif)).shape == (4, 8, 3)


def test_damaged_exif_says_nothing_about_the_picture() -> None:
    content = encoded(Image.new("RGB", (8, 4), RED), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff" + b"\xff" * 20)
    assert pixels(content).shape == (4, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_and_not_white(kind: str) -> None:
    shades = numpy.array([[0, 255, 256, 32768, 65535]], numpy.uint16)
    assert pixels(encoded(Image.fromarray(shades), kind))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand: Pillow writes none with 16 bits a channel."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))

    header = struct.pack(">2L5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_a_channel_become_eight() -> None:
    assert pixels(png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 65535, 32768, 255))).tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_range_are_refused(mode: str) -> None:
    content = encoded(Image.new(mode, (4, 4), 7), "TIFF")
    for check in (decode, check_image):
        with pytest.raises(InputError, match=r"a\.tif: does not decode: 32 bits a pixel"):
            check(content, "a.tif")


def test_ink_becomes_light() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        assert abs(pixels(encoded(red, kind)).astype(int) - RED).max() < 4


def test_transparency_is_dropped_and_the_colour_beneath_is_kept() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert pixels(encoded(palette, "PNG", transparency=b"\0\x80"))[0].tolist() == [[*RED], [0, 0, 255]]
    assert pixels(encoded(palette, "GIF", transparency=0))[0].tolist() == [[*RED], [0, 0, 255]]
    assert pixels(encoded(Image.new("RGBA", (1, 1), (*RED, 0)))).tolist() == [[[*RED]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture_counts(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    content = encoded(
        first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert (pixels(content) == RED).all()


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 30_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
def test_a_picture_may_be_as_narrow_as_it_likes(kind: str, size: tuple[int, int]) -> None:
    assert pixels(encoded(Image.new("RGB", size, RED), kind)).shape == (size[1], size[0], 3)


def test_the_content_says_what_kind_it_is_not_the_name() -> None:
    assert decode(encoded(Image.new("RGB", (3, 2)), "PNG"), "a.jpg").size == (3, 2)


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


def with_size(content: bytes, kind: str, width: int, height: int) -> bytes:
    """The header of a small picture claims another size."""
    changed = bytearray(content)
    if kind == "WEBP":  # of the canvas, less one, in 24 bits each
        changed[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return bytes(changed)
    place, layout = {"PNG": (16, ">2L"), "BMP": (18, "<2l"), "GIF": (6, "<2H")}[kind]
    struct.pack_into(layout, changed, place, width, height)
    if kind == "PNG":
        struct.pack_into(">L", changed, 29, zlib.crc32(changed[12:29]))
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        ("PNG", (50_000, 50_000), r"50000 × 50000 pixels|decompression bomb"),
        ("PNG", (7_100, 7_100), rf"7100 × 7100 pixels, at most {MAX_PIXELS}"),
        ("GIF", (65_535, 65_535), "decompression bomb|pixels"),
        ("BMP", (49_000_000, 1), "at most 65535 a side"),
        ("WEBP", (60_000, 60_000), "pixels|decompression bomb|no image"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_what_its_header_says(kind: str, size: tuple[int, int], said: str) -> None:
    animated = {"save_all": True, "append_images": [Image.new("RGB", (4, 4), RED)]} if kind == "WEBP" else {}
    content = with_size(encoded(Image.new("RGB", (4, 4)), kind, **animated), kind, *size)
    for check in (decode, check_image):
        with pytest.raises(InputError, match=rf"^b\.x: does not decode: .*({said})"):
            check(content, "b.x")


def test_a_picture_of_very_many_scans_is_refused() -> None:
    content = encoded(Image.effect_noise((64, 64), 60), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    assert content.count(b"\xff\xda") < 20
    with pytest.raises(InputError, match=rf"scans, at most {MAX_SCANS} are allowed"):
        decode(content[:-2] + content[start:-2] * MAX_SCANS + content[-2:], "x")


def test_a_large_bitmap_in_runs_is_refused() -> None:
    header = struct.pack("<2sL2HL", b"BM", 1100, 0, 0, 1078) + struct.pack(
        "<L2l2H6L", 40, 5000, 5000, 1, 8, 1, 0, 0, 0, 256, 0
    )
    with pytest.raises(InputError, match="5000 × 5000 pixels in runs, at most"):
        decode(header + bytes(1024) + b"\0\0" * 100, "x")


LARGEST: dict[str, tuple[str, str, dict[str, object]]] = {
    "grey.png": ("L", "PNG", {"compress_level": 1}),
    "alpha.png": ("RGBA", "PNG", {"compress_level": 1}),
    "sixteen.tiff": ("I;16", "TIFF", {"compression": "tiff_lzw"}),
    "ink.tiff": ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
    "palette.gif": ("P", "GIF", {}),
    "baseline.jpg": ("RGB", "JPEG", {}),
    "progressive.jpg": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "progressive-ink.jpg": ("CMYK", "JPEG", {"progressive": True, "subsampling": 0}),
    "alpha.webp": ("RGBA", "WEBP", {"lossless": True, "method": 0}),
    "photo.webp": ("RGB", "WEBP", {"method": 0}),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_picture_allowed_is_decoded_within_bounds(name: str) -> None:
    mode, kind, options = LARGEST[name]
    side = int(MAX_PIXELS**0.5)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(Image.new(mode, (side, side), 7), kind, exif=exif, **options)
    with bounded():
        check_image(content, name)
        assert decode(content, name).size == (side, side)
