"""Pack many image files into one archive, which DVC then hashes and links."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.data.acquire.layouts import ImageFile
from pipeline.data.images import check_image, write_images
from pipeline.data.shards import write_index
from pipeline.errors import InputError
from pipeline.progress import progress

BATCH_IMAGES = 64  # decoded in parallel, and in memory


def pack_images(images: Mapping[str, ImageFile], path: Path, root: Path | None, *, fail: bool) -> list[str]:
    """Check that every image decodes, and write its unchanged bytes; returns the names of broken ones.

    Images that all lie in shards below `root` are not packed again: their index is written, `.parquet` beside `path`.

    Raises:
        InputError: with `fail`, naming the first broken image.
    """
    broken: list[str] = []
    in_shards = {name: image.location for name, image in images.items() if image.location is not None}
    if root is None or len(in_shards) < len(images):
        write_images(path, _whole(images, broken, fail))
        return broken
    for name, image in images.items():
        if image.broken is not None:
            _refuse(image.broken, fail)
            broken.append(name)
    kept = {name: (place, images[name].digest) for name, place in in_shards.items() if images[name].broken is None}
    if kept:
        write_index(path.with_suffix(".parquet"), root, kept)
    return broken


def _refuse(reason: object, fail: bool) -> None:
    if fail:
        raise InputError(f"{reason}; mend or remove it, or set data.on_bad_image to skip")


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
            else:
                _refuse(content, fail)
                broken.append(name)


def _content(image: ImageFile) -> bytes | InputError:
    try:
        content = image.read()
        check_image(content, image.place)
    except InputError as error:
        return error
    return content
