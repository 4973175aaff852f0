"""Readers of the published layouts of captions; all return the same `Annotations`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.data.acquire.layouts import Files
from pipeline.data.acquire.sources import Source
from pipeline.data.archives import checked_name
from pipeline.data.images import is_image
from pipeline.data.splits.format import SPLITS, can_be_written, read_split
from pipeline.data.text import read_json, read_lines, read_text
from pipeline.errors import InputError

SPLIT_NAMES = {name: name for name in SPLITS} | {"restval": "train", "dev": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class Picture:
    """An image by its name in images.zip, its captions in published order, and its split (None: in no split)."""

    image: str
    captions: tuple[str, ...]
    split: str | None


@dataclass(frozen=True)
class Annotations:
    """All pictures in the annotations, in published order; without `has_splits`, none has a split."""

    pictures: tuple[Picture, ...]
    has_splits: bool = True


def read_annotations(layout: str, files: Files, source: Source) -> Annotations:
    """Read one published layout and give every image its member name.

    Raises:
        InputError: naming the file and the row or line, for content that is cut off, lacks a key, has an empty caption,
            an image without captions or in two splits, a name that leaves the folder, or a split without images.
    """
    annotations = _READERS[layout](files, source.scan_image)
    place = ", ".join(str(file) for file in files.values())
    pictures: dict[str, Picture] = {}
    for picture in annotations.pictures:
        member = source.member(checked_name(picture.image, place))
        if not picture.captions:
            raise InputError(f"{place}: image {picture.image!r} has no caption")
        if any(not caption.strip() for caption in picture.captions):
            raise InputError(f"{place}: image {picture.image!r} has an empty caption")
        if not all(map(can_be_written, (picture.image, *picture.captions))):
            raise InputError(f"{place}: image {picture.image!r}: half a character in its name or in a caption")
        if (other := pictures.get(member)) is not None:
            raise InputError(
                f"{place}: image {picture.image!r} is there twice, in split {other.split} and in "
                f"split {picture.split}; an image belongs to one split and has one list of captions"
            )
        pictures[member] = Picture(member, picture.captions, picture.split)
    for split in SPLITS if annotations.has_splits else ():
        if not any(picture.split == split for picture in pictures.values()):
            raise InputError(f"{place}: no image is in split {split!r}; train, val and test need at least one each")
    return Annotations(tuple(pictures.values()), annotations.has_splits)


def _read_flickr8k(files: Files, _: Callable[[str], str]) -> Annotations:
    splits: dict[str, str] = {}
    for published in ("train", "dev", "test"):
        file = files[f"Flickr_8k.{published}Images.txt"]
        for number, image in enumerate(read_lines(file), 1):
            if not image or image in splits:
                raise InputError(f"{file}: line {number}: {image!r}, expected an image that is in no split yet")
            splits[image] = SPLIT_NAMES[published]
    captions: dict[str, list[str]] = {}
    tokens = files["Flickr8k.token.txt"]
    for number, line in enumerate(read_lines(tokens), 1):
        identity, _tab, caption = line.partition("\t")
        image, _hash, index = identity.rpartition("#")
        if not image or index != str(len(captions.get(image, ()))) or not caption.strip():
            raise InputError(
                f"{tokens}: line {number}: {line[:80]!r}, expected <image>#<its captions counted from 0>, "
                "a tab, a caption"
            )
        captions.setdefault(image, []).append(caption.strip())
    for image, split in splits.items():
        if image not in captions:
            raise InputError(f"{tokens}: image {image!r} of split {split} has no caption")
    return Annotations(tuple(Picture(image, tuple(texts), splits.get(image)) for image, texts in captions.items()))


def _read_karpathy(files: Files, _: Callable[[str], str]) -> Annotations:
    (file,) = files.values()
    content = read_json(file)
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file}: expected an object with a list 'images' that has at least one row")
    pictures = []
    for number, row in enumerate(rows):
        place = f"{file}: images, row {number}"
        name = _key(row, "filename", str, place)
        if row.get("filepath"):
            name = f"{_key(row, 'filepath', str, place)}/{name}"
        split = _split_name(_key(row, "split", str, place), place)
        texts = [
            _key(sentence, "raw", str, f"{place}: sentence {index}").strip()
            for index, sentence in enumerate(_key(row, "sentences", list, place))
        ]
        if not texts or not all(texts):
            raise InputError(f"{place}: image {name!r} has {'an empty caption' if texts else 'no caption'}")
        pictures.append(Picture(name, tuple(texts), split))
    return Annotations(tuple(pictures))


def _read_fne(files: Files, _: Callable[[str], str]) -> Annotations:
    pictures = []
    for split in SPLITS:
        (file,) = (file for name, file in files.items() if name.endswith(f"{split}.json"))
        content = read_split(cast(Path, file))
        captions: list[list[str]] = [[] for _image in content.images]
        for caption, index in zip(content.captions, content.caption_image, strict=True):
            captions[index].append(caption.strip())
        pictures += [Picture(name, tuple(texts), split) for name, texts in zip(content.images, captions, strict=True)]
    return Annotations(tuple(pictures))


def _read_scan(files: Files, scan_image: Callable[[str], str]) -> Annotations:
    names = read_lines(files["image_name.txt"]) if "image_name.txt" in files else None
    pictures = []
    for published in ("train", "dev", "test"):
        id_file, caption_file = files[f"{published}_ids.txt"], files[f"{published}_caps.txt"]
        ids, captions = read_lines(id_file), read_lines(caption_file)
        if len(captions) % len(ids):
            raise InputError(
                f"{caption_file}: {len(captions)} captions for the {len(ids)} ids of {id_file}; expected as many for "
                "each id (cut off?)"
            )
        for number, text in enumerate(captions, 1):
            if not text:
                raise InputError(f"{caption_file}: line {number}: an empty caption")
        each = len(captions) // len(ids)
        of_image: dict[str, list[str]] = {}  # published val and test ids: one per caption; train ids: one per image
        for number, identity in enumerate(ids):
            name = _scan_name(identity, names, scan_image, f"{id_file}: line {number + 1}")
            of_image.setdefault(name, []).extend(captions[number * each : (number + 1) * each])
        pictures += [Picture(name, tuple(texts), SPLIT_NAMES[published]) for name, texts in of_image.items()]
    return Annotations(tuple(pictures))


def _scan_name(identity: str, names: Sequence[str] | None, scan_image: Callable[[str], str], place: str) -> str:
    if not identity:
        raise InputError(f"{place}: an empty id")
    if names is None:
        return identity if is_image(identity) else scan_image(identity)
    if not re.fullmatch("[0-9]{1,18}", identity) or int(identity) >= len(names):
        raise InputError(f"{place}: id {identity[:60]!r}, expected a line of image_name.txt, 0 to {len(names) - 1}")
    return names[int(identity)]


def _read_table(files: Files, _: Callable[[str], str]) -> Annotations:
    (file,) = files.values()
    delimiter = "\t" if file.name.endswith(".tsv") else ","
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    try:
        columns = rows.fieldnames or ()
        if not {"image", "caption"} <= set(columns):
            raise InputError(
                f"{file}: the columns are {', '.join(columns) or 'none'}; image, caption and, if wanted, split "
                "are expected"
            )
        for row in rows:
            place = f"{file}: line {rows.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{place}: expected {len(columns)} fields: {', '.join(columns)}")
            image, caption = row["image"].strip(), row["caption"].strip()
            if not image:
                raise InputError(f"{place}: no image")
            if not caption:
                raise InputError(f"{place}: image {image!r} has an empty caption")
            split = _split_name(row["split"].strip(), place) if "split" in columns else None
            if splits.setdefault(image, split) != split:
                raise InputError(
                    f"{place}: image {image!r} is in split {split} here and in split {splits[image]} before"
                )
            captions.setdefault(image, []).append(caption)
    except csv.Error as error:
        raise InputError(f"{file}: line {rows.line_num}: not readable as a table: {error}") from None
    if not captions:
        raise InputError(f"{file}: no row; one row a caption is expected")
    return Annotations(
        tuple(Picture(image, tuple(texts), splits[image]) for image, texts in captions.items()), "split" in columns
    )


def _read_scenes(files: Files, _: Callable[[str], str]) -> Annotations:
    from pipeline.data.scenes.scenes import Scene

    file = files["scenes.json"]
    content = read_json(file)
    try:
        return Annotations(
            tuple(
                Picture(scene_name(split, index), Scene.from_json(row).captions, split)
                for split in SPLITS
                for index, row in enumerate(content[split])
            )
        )
    except (LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not what stage download writes ({reason}); run that stage again") from None


def scene_name(split: str, index: int) -> str:
    """The member name of a generated picture; `index` counts from 0 within its split."""
    return f"{split}/{index:05d}.png"


def _split_name(found: str, place: str) -> str:
    if found not in SPLIT_NAMES:
        raise InputError(f"{place}: split = {found!r}, expected one of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[found]


def _key(row: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(row, dict):
        raise InputError(f"{place}: expected an object, found {type(row).__name__}")
    if key not in row:
        raise InputError(f"{place}: no {key!r}; found the keys {', '.join(map(repr, row)) or 'none'}")
    if not isinstance(row[key], kind) or not row[key]:
        raise InputError(f"{place}: {key} = {str(row[key])[:60]!r}, expected a {kind.__name__} that is not empty")
    return row[key]


_READERS: dict[str, Callable[[Files, Callable[[str], str]], Annotations]] = {
    "flickr8k": _read_flickr8k,
    "karpathy": _read_karpathy,
    "fne": _read_fne,
    "scan": _read_scan,
    "table": _read_table,
    "scenes": _read_scenes,
}


def count_captions(pictures: Iterable[Picture]) -> int:
    """The number of captions of all these pictures."""
    return sum(len(picture.captions) for picture in pictures)
