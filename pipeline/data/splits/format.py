"""Splits in FNE's JSON format, which the published code and all later stages read.

train: a list of `{"image", "caption", "image_id"}`, one row per caption; val and test: a list of
`{"image", "caption": [c1, c2, …]}`, one row per image. `image` is the member's name in `data/raw/images.zip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.captions import can_be_written
from pipeline.errors import InputError
from pipeline.files import read_json, write_json
from pipeline.yaml_text import shown

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Images and captions of one split: caption `m` was written for image `caption_image[m]` of `images`."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    caption_image: tuple[int, ...]

    @staticmethod
    def of(pictures: Sequence[tuple[str, Sequence[str]]]) -> Split:
        """From (image, captions) pairs, in the same order."""
        rows = [(caption, index) for index, (_, captions) in enumerate(pictures) for caption in captions]
        return Split(
            tuple(image for image, _ in pictures),
            tuple(caption for caption, _ in rows),
            tuple(index for _, index in rows),
        )

    def pictures(self) -> list[tuple[str, list[str]]]:
        """The (image, captions) pairs that `of` takes."""
        captions: list[list[str]] = [[] for _ in self.images]
        for caption, index in zip(self.captions, self.caption_image, strict=True):
            captions[index].append(caption)
        return list(zip(self.images, captions, strict=True))


def write_split(path: Path, split: Split, *, one_row_a_caption: bool) -> None:
    """Write a split as FNE's train (`one_row_a_caption`) or val/test JSON; image ids count the images from 0."""
    if one_row_a_caption:
        rows: list[dict[str, Any]] = [
            {"image": split.images[index], "caption": caption, "image_id": index}
            for caption, index in zip(split.captions, split.caption_image, strict=True)
        ]
    else:
        rows = [{"image": image, "caption": texts} for image, texts in split.pictures()]
    write_json(path, rows)


def read_split(path: Path) -> Split:
    """Read either of FNE's two layouts; rows of a train file that share an `image_id` share an image.

    Raises:
        InputError: naming the file and the row, for JSON that is cut off, a missing key, a wrong type,
            an empty caption or an image without captions.
    """
    rows = read_json(path, "split")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a list with at least one row, found {type(rows).__name__} {str(rows)[:40]}")
    images: dict[Any, tuple[int, str]] = {}
    captions: list[str] = []
    caption_image: list[int] = []
    for number, row in enumerate(rows):
        place = f"{path}: row {number}"
        name, texts, identity = _checked_row(row, place)
        index, known_name = images.setdefault(name if identity is None else ("id", identity), (len(images), name))
        if known_name != name:
            raise InputError(f"{place}: image_id {identity!r} names {name!r} here and {known_name!r} before")
        if identity is None and index != number:
            raise InputError(f"{place}: image {name!r} stands in row {index} already; one row an image is expected")
        captions += texts
        caption_image += [index] * len(texts)
    return Split(tuple(name for _, name in images.values()), tuple(captions), tuple(caption_image))


def value_of(row: Any, key: str, place: str) -> Any:
    """The value of `key` in `row`; raises an `InputError` that names `place` if the row is no object or lacks it."""
    if not isinstance(row, dict):
        raise InputError(f"{place}: expected an object, found {type(row).__name__}")
    if key not in row:
        raise InputError(f"{place}: no {key!r}; found the keys {', '.join(map(repr, row)) or 'none'}")
    return row[key]


def _checked_row(row: Any, place: str) -> tuple[str, list[str], Any]:
    """The row's image name, its captions and, for a train row, its image id."""
    name, caption = value_of(row, "image", place), value_of(row, "caption", place)
    if not isinstance(name, str) or not name or not can_be_written(name):
        raise InputError(f"{place}: image = {name!r}, expected a file name")
    texts = caption if isinstance(caption, list) else [caption]
    if not texts:
        raise InputError(f"{place}: image {name!r} has no caption")
    for text in texts:
        if not isinstance(text, str) or not text.strip() or not can_be_written(text):
            raise InputError(f"{place}: image {name!r} has an empty caption or one that is no text: {text!r}")
    identity = None if isinstance(caption, list) else row.get("image_id", name)
    # larger numbers could be chosen to collide in a dict, which takes quadratic time
    if isinstance(identity, (list, dict)) or (isinstance(identity, int) and not abs(identity) < 1 << 63):
        raise InputError(f"{place}: image_id = {shown(identity)}, expected a number below 2**63 or a text")
    return name, texts, identity
