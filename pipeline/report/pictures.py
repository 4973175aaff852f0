"""Pictures inside the page; one that is shown several times is embedded once."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.data.images import ImageArchive

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 70  # of WebP
MOST_BYTES = 2_800_000  # of all pictures; base64 adds a third, and the page has below 5 MB by default
SMALLEST_SIDE = 48
TRIES = 4


@dataclass(frozen=True)
class Picture:
    """A picture of the page: `key` is the element's id, sizes are in pixels."""

    key: str
    width: int
    height: int


class Pictures:
    """Pictures of at most `side` pixels; smaller ones where all together would be larger than `most_bytes`."""

    def __init__(self, archive: ImageArchive, side: int, most_bytes: int = MOST_BYTES) -> None:
        self._archive, self._side, self._most_bytes = archive, side, most_bytes
        self._made: dict[str, tuple[Picture, Image]] = {}

    def of(self, name: str) -> Picture:
        """The archive's image `name`.

        Raises:
            InputError: naming the image, when it is missing or does not decode.
        """
        if name not in self._made:
            image = self._archive.decode(name)
            image.thumbnail((self._side, self._side))
            self._made[name] = Picture(f"picture-{len(self._made)}", image.width, image.height), image
        return self._made[name][0]

    def embedded(self) -> list[tuple[Picture, str]]:
        """Every picture that was used, with its bytes as a data: URI."""
        side = self._side
        for _ in range(TRIES):
            encoded = [_encoded(image, side) for _, image in self._made.values()]
            total = sum(len(content) for _, content in encoded)
            if total <= self._most_bytes or side <= SMALLEST_SIDE:
                break
            side = max(SMALLEST_SIDE, int(side * 0.95 * (self._most_bytes / total) ** 0.5))
        return [
            (picture, f"data:image/{kind};base64,{base64.b64encode(content).decode()}")
            for (picture, _), (kind, content) in zip(self._made.values(), encoded, strict=True)
        ]


def _encoded(image: Image, side: int) -> tuple[str, bytes]:
    """WebP, or PNG where that is smaller, as for drawings."""
    small = image.copy()
    small.thumbnail((side, side))
    contents = []
    for kind, options in (("webp", {"quality": QUALITY, "method": 2}), ("png", {"optimize": True})):
        content = io.BytesIO()
        small.save(content, kind, **options)
        contents.append((kind, content.getvalue()))
    return min(contents, key=lambda made: len(made[1]))
