"""NPC's published memory banks, `{ratio}_mbank_{img,txt}_idx.npy`, as rows of a training split.

Shapes: N training images, M training captions, which are the pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy
from numpy.typing import NDArray

from pipeline.data.splits.format import Split
from pipeline.data.text import read_lines
from pipeline.errors import InputError
from pipeline.files import read_record
from pipeline.models.foreign.conversion import converted


def read_published_bank(
    image_path: Path, text_path: Path, split: Split, *, image_names: Path | None = None
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """For each image, (N,), and for each caption, (M,), the pair of its bank entry, as a caption's row.

    The text file's keys are caption lines, the image file's are image ids. An id is an image's name without its suffix
    (CC120K), the last digits of its name (MS-COCO), its row in the split, or, given `image_names`, its line in
    `image_name.txt` (Flickr30K, where lines count all splits together). Entries are also caption lines: the split's
    captions must be in the order of the published `train_caps.txt`, which the files do not allow to check.

    Raises:
        InputError: naming the file and the key that is missing, unexpected, or whose entry is not a caption line.
    """
    by_image, by_text = read_bank(image_path), read_bank(text_path)
    lines = [str(row) for row in range(len(split.captions))]
    image_id_N = _ids_by_line(split.images, image_names) if image_names else _ids_by_name(split.images, by_image)
    hint = "" if image_names else "; ids that are lines of image_name.txt need that file"
    return (
        _entries(by_image, image_id_N, split.images, len(lines), image_path, hint),
        _entries(by_text, lines, split.captions, len(lines), text_path, ""),
    )


def read_bank(path: Path) -> dict[str, int]:
    """Read `numpy.save(path, {key: integer})`; keys that are numbers become strings.

    A value may be an int, a numpy integer or an array with one integer.

    Raises:
        InputError: naming the file and its error, or the key whose value is not an integer.
    """
    with converted("bank", path) as folder:
        bank = read_record(folder / "bank.json")
    for key, value in bank.items():
        if type(value) is not int:
            raise InputError(f"{path}: key {key[:40]!r}: {type(value).__name__}, expected a whole number")
    return bank


def _ids_by_line(images: Sequence[str], image_names: Path) -> list[str]:
    if not image_names.is_file():
        raise InputError(f"{image_names}: not found")
    line_of = {PurePosixPath(name.strip()).name: str(line) for line, name in enumerate(read_lines(image_names))}
    for image in images:
        if PurePosixPath(image).name not in line_of:
            raise InputError(f"{image_names}: no line for the training image {image!r}")
    return [line_of[PurePosixPath(image).name] for image in images]


def _ids_by_name(images: Sequence[str], bank: Mapping[str, int]) -> list[str]:
    """The interpretation of ids that finds most keys; names before rows, since names cannot match by accident."""
    stems = [PurePosixPath(image).stem for image in images]
    digits = [str(int(found[0])) if (found := re.search(r"[0-9]{1,18}$", stem)) else stem for stem in stems]
    rows = [str(row) for row in range(len(images))]
    return max((stems, digits, rows), key=lambda ids: len(bank.keys() & set(ids)))


def _entries(
    bank: Mapping[str, int], keys: Sequence[str], subjects: Sequence[str], captions: int, path: Path, hint: str
) -> NDArray[numpy.int64]:
    """The bank's entries in the order of `keys`; `subjects` names the image or caption of each key in errors."""
    for key, subject in zip(keys, subjects, strict=True):
        if key not in bank:
            raise InputError(f"{path}: no key {key!r}, for {subject[:60]!r}; {len(bank)} keys found{hint}")
        if not 0 <= bank[key] < captions:
            raise InputError(f"{path}: key {key!r}: {bank[key]}, expected a caption line from 0 to {captions - 1}")
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: key {key!r} fits {count} of the training images{hint}")
    if len(bank) > len(keys):
        known = set(keys)
        surplus = next(key for key in bank if key not in known)
        raise InputError(
            f"{path}: {len(bank)} keys, expected {len(keys)}: {surplus[:40]!r} belongs to another training split{hint}"
        )
    return numpy.array([bank[key] for key in keys], dtype=numpy.int64)
