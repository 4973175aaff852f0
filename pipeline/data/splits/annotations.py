"""Readers of the published layouts of captions; all yield the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from pipeline.data.acquire.layouts import Files
from pipeline.data.acquire.sources import Source
from pipeline.data.columns import ANY
from pipeline.data.images import is_image
from pipeline.data.rows import SPLIT_NAMES, Annotations, Row, gather, split_in_path, split_name, splits_in_paths
from pipeline.data.splits.format import SPLITS, read_split, value_of
from pipeline.data.tables import open_table, table_rows
from pipeline.data.text import read_json, read_lines
from pipeline.errors import InputError
from pipeline.params import ColumnsParams

TEXTS = ("raw", "caption")  # `gather` says what becomes of an empty one


def read_annotations(
    layout: str, files: Files, source: Source, columns: ColumnsParams = ANY, *, skip_empty: bool = False
) -> Annotations:
    """Read one published layout and give every image its name in data/raw; `columns` is `data.columns`, of tables.

    With `skip_empty`, empty captions are left out.

    Raises:
        InputError: naming the file and the row or line, for content that is cut off, lacks a key, has an empty caption
            (unless they are skipped), an image without captions or in two splits, or a name that leaves the folder.
    """
    if layout == "table":
        return _read_tables(files, source, columns, skip_empty)
    return gather(_READERS[layout](files, source), source.member, skip_empty=skip_empty)


def _read_flickr8k(files: Files, _: Source) -> Iterator[Row]:
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
    for image, texts in captions.items():
        yield Row(image, tuple(texts), splits.get(image), str(tokens))


def _read_karpathy(files: Files, _: Source) -> Iterator[Row]:
    (file,) = files.values()
    content = read_json(file)
    rows = content.get("images") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file}: expected an object with a list 'images' that has at least one row")
    for number, row in enumerate(rows):
        place = f"{file}: images, row {number}"
        name = _key(row, "filename", str, place)
        if row.get("filepath"):
            name = f"{_key(row, 'filepath', str, place)}/{name}"
        split = split_name(_key(row, "split", str, place), place)
        sentences = enumerate(_key(row, "sentences", list, place))
        texts = (_key(sentence, "raw", str, f"{place}: sentence {index}") for index, sentence in sentences)
        yield Row(name, tuple(texts), split, place)


def _read_coco(files: Files, _: Source) -> Iterator[Row]:
    """COCO's own captions_{train,val}2014.json or 2017: images and captions in two lists, the split in the name."""
    for base, file in files.items():
        content = read_json(file)
        parts = content if isinstance(content, dict) else {}
        names: dict[Any, str] = {}
        for number, row in enumerate(_key(parts, "images", list, str(file))):
            place = f"{file}: images, row {number}"
            names[_key(row, "id", int, place)] = _key(row, "file_name", str, place)
        captions: dict[Any, list[str]] = {}
        for number, row in enumerate(_key(parts, "annotations", list, str(file))):
            place = f"{file}: annotations, row {number}"
            identity = _key(row, "image_id", int, place)
            if identity not in names:
                raise InputError(f"{place}: image_id = {identity}, expected the id of a row in images")
            captions.setdefault(identity, []).append(_key(row, "caption", str, place))
        for identity, texts in captions.items():
            yield Row(names[identity], tuple(texts), split_in_path(base), f"{file}: image {identity}")


def _read_fne(files: Files, _: Source) -> Iterator[Row]:
    for split in SPLITS:
        (file,) = (file for name, file in files.items() if name.endswith(f"{split}.json"))
        content = read_split(cast(Path, file))
        for name, texts in content.pictures():
            yield Row(name, tuple(texts), split, str(file))


def _read_scan(files: Files, source: Source) -> Iterator[Row]:
    names: dict[str, Any] | None = None
    if "image_name.txt" in files:
        names = {str(number): name for number, name in enumerate(read_lines(files["image_name.txt"]))}
    elif "id_mapping.json" in files:
        names = read_json(files["id_mapping.json"])
        if not isinstance(names, dict):
            raise InputError(f"{files['id_mapping.json']}: expected an object with a name for each id")
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
            name = _scan_name(identity, names, source.scan_image, f"{id_file}: line {number + 1}")
            of_image.setdefault(name, []).extend(captions[number * each : (number + 1) * each])
        for name, texts in of_image.items():
            yield Row(name, tuple(texts), SPLIT_NAMES[published], str(id_file))


def _scan_name(identity: str, names: dict[str, Any] | None, scan_image: Callable[[str], str], place: str) -> str:
    if not identity:
        raise InputError(f"{place}: an empty id")
    if names is None:
        return identity if is_image(identity) else scan_image(identity)
    name = names.get(identity if identity in names else identity.lstrip("0"))
    if not isinstance(name, str) or not name:
        first, last = next(iter(names), None), next(reversed(names), None)
        raise InputError(
            f"{place}: id {identity[:60]!r}, expected one of image_name.txt (its lines) or id_mapping.json, {first} to "
            f"{last}"
        )
    return name


def _read_tables(files: Files, source: Source, columns: ColumnsParams, skip_empty: bool) -> Annotations:
    rows = []
    chosen: dict[str, None] = {}
    splits = splits_in_paths(files)
    for name, file in files.items():
        table = open_table(file, columns)
        if isinstance(table, str):
            raise InputError(table)
        chosen[str(table.columns)] = None
        folder = name.rpartition("/")[0]
        before = "" if (folder or ".") in source.annotation_folders else f"{folder}/"
        rows.append(table_rows(table, before, splits[name]))
    return replace(gather(chain(*rows), source.member, skip_empty=skip_empty), columns=tuple(chosen))


def _read_sidecar(files: Files, _: Source) -> Iterator[Row]:
    """A text file beside each image, a caption a line; the files are named as their images."""
    folders = {image: f"{image.rpartition('/')[0]}/" for image in files}
    splits = splits_in_paths(folders.values())
    for image, file in files.items():
        yield Row(image, tuple(filter(None, read_lines(file))), splits[folders[image]], str(file))


def scene_name(split: str, index: int) -> str:
    """The member name of a generated picture; `index` counts from 0 within its split."""
    return f"{split}/{index:05d}.png"


def _key(row: Any, key: str, kind: type, place: str) -> Any:
    value = value_of(row, key, place)
    if not isinstance(value, kind) or (not value and kind is not int and key not in TEXTS):
        raise InputError(f"{place}: {key} = {str(value)[:60]!r}, expected a {kind.__name__} that is not empty")
    return value


_READERS: dict[str, Callable[[Files, Source], Iterator[Row]]] = {
    "flickr8k": _read_flickr8k,
    "karpathy": _read_karpathy,
    "fne": _read_fne,
    "scan": _read_scan,
    "coco": _read_coco,
    "sidecar": _read_sidecar,
}
