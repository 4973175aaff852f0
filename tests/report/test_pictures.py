"""Pictures in a page: each once, and all together within a budget."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.images import ImageArchive, write_images
from pipeline.report.pictures import Pictures

SIDE = 200


def archive(folder: Path, count: int) -> ImageArchive:
    draw = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        content = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (SIDE, 2 * SIDE, 3), np.uint8)).save(content, "PNG")
        pictures.append((f"{number}.png", content.getvalue()))
    write_images(folder / "images.zip", pictures)
    return ImageArchive(folder / "images.zip")


def sizes(pictures: Pictures) -> list[tuple[int, int, int]]:
    """Bytes, width and height of each embedded picture."""
    found = []
    for _, uri in pictures.embedded():
        content = base64.b64decode(uri.partition(",")[2])
        found.append((len(content), *Image.open(io.BytesIO(content)).size))
    return found


def test_many_pictures_are_smaller_so_that_the_page_is_not_larger(tmp_path: Path) -> None:
    images, budget = archive(tmp_path, 12), 60_000
    few, many = Pictures(images, SIDE, budget), Pictures(images, SIDE, budget)
    few.of("0.png")
    for name in (*images.names, *images.names):
        many.of(name)
    ((_, width, height),) = sizes(few)
    assert (width, height) == (SIDE, SIDE // 2)
    found = sizes(many)
    assert len(found) == 12, "each once"
    assert sum(size for size, *_ in found) <= budget
    assert {round(width / height) for _, width, height in found} == {2}
    assert found[0][1] < SIDE
