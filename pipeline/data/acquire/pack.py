"""Pack many image files into one archive, which DVC then hashes and links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.data.acquire.layouts import ImageFile
from pipeline.data.images import check_image, write_images
from pipeline.errors import InputError
from pipeline.progress import progress

BATCH_IMAGES = 64  # decoded in parallel, and in memory


def pack_images(images: Mapping[str, ImageFile], path: Path, *, fail: bool) -> list[str]:
    """Check that every image decodes, and write its unchanged bytes; returns the names of broken ones.

    Raises:
        InputError: with `fail`, naming the first broken image.
    """
    broken: list[str] = []
    write_images(path, _whole(images, broken, fail))
    return broken


def _whole(images: Mapping[str, ImageFile], broken: list[str], fail: bool) -> Iterator[tuple[str, bytes]]:
    names = sorted(images)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL to decode

        def checked() -> Iterator[tuple[str, bytes | InputError]]:
            for start in range(0, len(names), BATCH_IMAGES):
                batch = names[start : start + BATCH_IMAGES]
                yield from zip(batch, pool.map(_content, (images[name] for name in batch)), strict=True)

        for name, content in progress(checked(), label="packing images", total=len(names)):
            if isinstance(content, bytes):
                yield name, content
            elif fail:
                raise InputError(f"{content}; mend or remove it, or set data.on_bad_image to skip")
            else:
                broken.append(name)


def _content(image: ImageFile) -> bytes | InputError:
    try:
        content = image.read()
        check_image(content, image.place)
    except InputError as error:
        return error
    return content
