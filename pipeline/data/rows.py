"""What every layout's reader yields, a row at a time, and the one place that puts rows together and counts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.data.archives import checked_name
from pipeline.data.captions import can_be_written
from pipeline.errors import InputError

NAMED = 5  # names in one line; source.json has all
SPLIT_NAMES = {name: name for name in ("train", "val", "test")} | {
    "restval": "train",
    "dev": "val",
    "valid": "val",
    "validation": "val",
}


class Row(NamedTuple):
    """An image's name, captions of it, its split (None: in no split), and the place of this row for errors."""

    image: str
    captions: tuple[str, ...]
    split: str | None
    place: str


@dataclass(frozen=True)
class Picture:
    """An image by its name in data/raw, its captions in published order, and its split (None: in no split)."""

    image: str
    captions: tuple[str, ...]
    split: str | None


@dataclass(frozen=True)
class Annotations:
    """All pictures in the annotations, in published order.

    `rows` is the number of rows read, `notes` says what was left out of them, `columns` which a table was read by.
    """

    pictures: tuple[Picture, ...]
    rows: int
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @cached_property
    def has_splits(self) -> bool:
        """Whether any picture has a split."""
        return any(picture.split is not None for picture in self.pictures)


def gather(rows: Iterable[Row], member: Callable[[str], str] = str, *, skip_empty: bool = False) -> Annotations:
    """Put the rows of each image together; `member` gives an image its name in data/raw.

    A row that repeats an earlier one of its image is left out and counted; captions inside one row stay as published.
    With `skip_empty`, empty captions are left out and counted too.

    Raises:
        InputError: naming the row, for a name that leaves the folder, no caption or an empty one, a text that cannot be
            written, or an image in two splits.
    """
    found: dict[str, tuple[str | None, dict[tuple[str, ...], None]]] = {}
    repeated, first, count = 0, "", 0
    empty: list[str] = []
    for image, texts, split, place in rows:
        count += 1
        name = member(checked_name(image, place))
        captions = tuple(text.strip() for text in texts)
        if skip_empty and not all(captions or [""]):
            empty.append(place)
            captions = tuple(filter(None, captions))
            if not captions:
                continue
        if not captions or not all(captions):
            raise InputError(f"{place}: image {image!r} has {'an empty' if captions else 'no'} caption")
        if not all(map(can_be_written, (image, *captions))):
            raise InputError(f"{place}: image {image!r}: half a character in its name or in a caption")
        before, groups = found.setdefault(name, (split, {}))
        if before != split:
            raise InputError(
                f"{place}: image {image!r} is in split {split} here and in split {before} before; an image belongs to "
                "one split"
            )
        if captions in groups:
            repeated, first = repeated + 1, first or place
        groups[captions] = None
    notes = [f"left out: {repeated} rows that repeat an earlier one; the first is {first}"] if repeated else []
    if empty:
        notes.append(f"left out: empty captions of {len(empty)} rows; the first is {empty[0]}")
    pictures = (
        Picture(name, tuple(text for texts in groups for text in texts), split)
        for name, (split, groups) in found.items()
    )
    return Annotations(tuple(pictures), count, tuple(notes))


def write_pictures(path: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures as parquet: image, captions (a list), split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("image", pa.string()), ("captions", pa.list_(pa.string())), ("split", pa.string())])
    columns = {name: [getattr(picture, name) for picture in pictures] for name in schema.names}
    pq.write_table(pa.table(columns, schema=schema), path)


def read_pictures(path: Path) -> list[Picture]:
    """What `write_pictures` wrote; raises `FileNotFoundError` where stage download has not run."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    return [Picture(row["image"], tuple(row["captions"]), row["split"]) for row in rows]


def count_captions(pictures: Iterable[Picture]) -> int:
    """The number of captions of all these pictures."""
    return sum(len(picture.captions) for picture in pictures)


def named(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def split_name(found: str, place: str) -> str | None:
    """The split that a published name means, none for ""; raises an `InputError` that names `place`."""
    if found and found.lower() not in SPLIT_NAMES:
        raise InputError(f"{place}: split = {found!r}, expected one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES.get(found.lower())


def split_in_path(path: str) -> str | None:
    """The split that a path states, if any.

    The last word of the file's name that is one (`data/train-00000-of-00001.parquet`), else the outermost folder called
    exactly so (`train/test_tube/0.txt`), else the outermost folder with such a word (`coco_train2014/0.txt`).
    """
    folders, _, base = path.lower().rpartition("/")
    words = (*reversed(re.findall("[a-z]+", base)), *folders.split("/"), *re.findall("[a-z]+", folders))
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def splits_in_paths(paths: Iterable[str]) -> dict[str, str | None]:
    """The split that each path states; none does where only one split is named and not by all: it is a class's name."""
    found = {path: split_in_path(path) for path in paths}
    splits = set(found.values())
    return dict.fromkeys(found) if None in splits and len(splits) == 2 else found
