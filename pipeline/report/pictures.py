"""Thumbnails inside the page; a picture that is shown several times is embedded once."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from pipeline.data.images import ImageArchive

JPEG_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A thumbnail: `key` is the element's id in the page, `uri` holds its bytes, sizes are in pixels."""

    key: str
    uri: str
    width: int
    height: int


class Pictures:
    """Thumbnails of at most `side` pixels, made on first use."""

    def __init__(self, archive: ImageArchive, side: int) -> None:
        self._archive = archive
        self._side = side
        self._made: dict[str, Picture] = {}

    def of(self, name: str) -> Picture:
        """The thumbnail of the archive's image `name`.

        Raises:
            InputError: naming the image, when it is missing or does not decode.
        """
        if name not in self._made:
            self._made[name] = self._make(name, f"picture-{len(self._made)}")
        return self._made[name]

    def all(self) -> list[Picture]:
        """Every thumbnail that was used."""
        return list(self._made.values())

    def _make(self, name: str, key: str) -> Picture:
        image = self._archive.decode(name)
        image.thumbnail((self._side, self._side))
        encoded = {}
        for kind, options in (("jpeg", {"quality": JPEG_QUALITY, "optimize": True}), ("png", {"optimize": True})):
            content = io.BytesIO()
            image.save(content, kind, **options)
            encoded[kind] = content.getvalue()
        kind = min(encoded, key=lambda name: len(encoded[name]))  # drawings are smaller and sharper as PNG
        uri = f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"
        return Picture(key, uri, image.width, image.height)
