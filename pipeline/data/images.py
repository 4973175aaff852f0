"""Decode images safely; read and write `data/raw/images.zip`, the archive of a dataset's images, or read its shards."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterable
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from pipeline.data.archives import BROKEN, open_archive
from pipeline.data.shards import ShardIndex
from pipeline.errors import InputError
from pipeline.files import digest_of

if TYPE_CHECKING:
    from PIL import Image
    from PIL.Image import Transpose

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # not EPS and similar, which start other programs
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 50_000_000  # decoding then takes less than 1 GiB and 5 s in every format (`make soak` tests it)
MAX_SIDE = 65_535  # JPEG's own limit; a gap in a BMP can be 255 rows long
MAX_SCANS = 100  # of a JPEG: each scan covers the whole picture; a usual progressive JPEG has about ten
MAX_RUN_PIXELS = 2_000_000  # of a run-length encoded BMP, which Pillow decodes byte by byte
ORIENTATION = 0x0112  # EXIF
EPOCH = (1980, 1, 1, 0, 0, 0)  # ZIP's earliest time, for all members: the same images make the same archive


def decode(content: bytes, name: str) -> Image.Image:
    """The first picture in `content`: RGB, rotated by its EXIF orientation, at most `MAX_PIXELS`.

    16-bit values are scaled to 8 bits. Transparency is dropped and the colour kept, as in the published code's
    `convert("RGB")`; colour profiles are not applied.

    Raises:
        InputError: naming the image, if it does not decode, or if its values have no known range.
    """
    try:
        opened = _opened(content)
    except Exception as error:  # Pillow's readers raise many types on damaged content
        raise _bad_image(name, error) from None
    with opened as image:
        return upright_rgb(image, name)


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """An opened picture as `decode` returns it: RGB, rotated by its EXIF orientation.

    Raises:
        InputError: as `decode`.
    """
    try:
        image.load()  # first: this rotates a TIFF, and a PNG's EXIF may follow its pixels
        turn = _turn(image)
        picture = _as_rgb(image)
        return picture if turn is None else picture.transpose(turn)
    except Exception as error:
        raise _bad_image(name, error) from None


def check_image(content: bytes, name: str) -> None:
    """Raise the same `InputError` as `decode`, with less work for JPEG."""
    try:
        with _opened(content) as image:
            image.draft("RGB", (1, 1))  # JPEG: reads every coefficient, but computes an eighth of the pixels per side
            image.load()
            _as_rgb(image.crop((0, 0, 1, 1)))
    except Exception as error:
        raise _bad_image(name, error) from None


def is_image(name: str) -> bool:
    """Whether a file is an image by its name; excludes the metadata of macOS in archives (`__MACOSX`, `._x`)."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def write_images(path: Path, images: Iterable[tuple[str, bytes]]) -> int:
    """Write the images' unchanged bytes as an archive that depends only on them; returns their number.

    `path` is written directly: its folder gets its final name only when complete.
    """
    count = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in images:
            member = zipfile.ZipInfo(name, EPOCH)
            member.create_system, member.external_attr = 3, 0o100644 << 16  # the same on every system
            archive.writestr(member, content)
            count += 1
    return count


class ImageArchive:
    """The images of `data/raw/images.zip`, or of shards by `images.parquet` beside it; each process opens its own."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._opened: tuple[int, zipfile.ZipFile | ShardIndex] | None = None
        self._opening = threading.Lock()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of every image, in the archive's order."""
        source = self._source()
        return tuple(source.names if isinstance(source, ShardIndex) else source.namelist())

    @cached_property
    def contents(self) -> list[tuple[str, int, int]]:
        """Name, size in bytes and checksum of every image, in order; no picture is read for it."""
        source = self._source()
        if isinstance(source, ShardIndex):
            return source.contents()
        return [(member.filename, member.file_size, member.CRC) for member in source.infolist()]

    def digest(self) -> str:
        """The digest of `contents`."""
        return digest_of(self.contents)

    def read(self, name: str) -> bytes:
        """The image's content as published.

        Raises:
            InputError: naming the archive or the shard, and the image, if it is missing, damaged or changed.
        """
        try:
            return self._source().read(name)
        except KeyError:
            raise InputError(f"{self.path}: holds no image {name!r}; `dvc repro download` packs it") from None
        except BROKEN as error:
            raise InputError(f"{self.path}: image {name!r} is damaged: {error}") from None

    def decode(self, name: str) -> Image.Image:
        """The picture, see `decode` above."""
        return decode(self.read(name), f"{self.path}: {name}")

    def __reduce__(self) -> tuple[type[ImageArchive], tuple[Path]]:
        return ImageArchive, (self.path,)  # a spawned worker opens its own

    def _source(self) -> zipfile.ZipFile | ShardIndex:
        # A forked worker shares the file position of its parent's handle, so it must not use that handle.
        with self._opening:  # several threads open it once
            if self._opened is None or self._opened[0] != os.getpid():
                index = self.path.with_suffix(".parquet")
                if not self.path.exists() and not index.exists():
                    raise InputError(f"{self.path}: not found; `dvc repro download` makes it")
                self._opened = (os.getpid(), open_archive(self.path) if self.path.exists() else ShardIndex(index))
            return self._opened[1]


def _opened(content: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} × {image.height} pixels, at most {MAX_PIXELS} are allowed")
    if max(image.size) > MAX_SIDE:
        raise ValueError(f"{image.width} × {image.height} pixels, at most {MAX_SIDE} a side are allowed")
    if image.format in ("JPEG", "MPO") and (scans := content.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"{scans} scans, at most {MAX_SCANS} are allowed")
    if image.format == "BMP" and image.info.get("compression") and image.width * image.height > MAX_RUN_PIXELS:
        raise ValueError(f"{image.width} × {image.height} pixels in runs, at most {MAX_RUN_PIXELS} are allowed")
    return image


def _turn(image: Image.Image) -> Transpose | None:
    """The operation for the EXIF orientation; None if EXIF cannot be read."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # Pillow's reader raises many types on damaged content
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _as_rgb(image: Image.Image) -> Image.Image:
    """Eight bits per channel. Pillow's own conversion clips 16-bit values at 255, which makes the picture white."""
    from PIL import Image

    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, of a range that the file does not say; 8 or 16 are allowed")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((numpy.asarray(image) >> 8).astype(numpy.uint8))
    return image.convert("RGB")


def _bad_image(name: str, error: Exception) -> InputError:
    reason = "no image in a format known here" if type(error).__name__ == "UnidentifiedImageError" else error
    return InputError(f"{name}: does not decode: {reason} (formats: {', '.join(FORMATS)})")
