"""Noise: training captions paired with images that they were not written for, drawn by a seed or read from a file.

Row m of train.json keeps its image and gets caption `permutation_M[m]` of the clean split. M captions, N images.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.captions import one_line
from pipeline.data.splits.format import Split
from pipeline.data.splits.related import Same, caption_nouns, swaps_by_label, swaps_by_words
from pipeline.data.text import read_lines
from pipeline.errors import InputError
from pipeline.files import sha256, users_file, write_text
from pipeline.params import NoiseParams
from pipeline.paths import NOISE

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX, TEXT = ".npy", ".txt"


@dataclass(frozen=True)
class Shuffle:
    """The caption of each row, how many captions were shuffled, and the kind of a file's values (None: drawn here)."""

    permutation_M: NDArray[np.int64]
    chosen: int
    kind: str | None = None


def noise_file(params: NoiseParams) -> Path | None:
    """The published index `data.noise.file`, relative to the main repository; None: noise is drawn.

    Raises:
        InputError: when it is missing, or neither `.npy` nor `.txt`.
    """
    if params.file is None:
        return None
    path = users_file(params.file, "data.noise.file")
    if path.suffix not in (INDEX, TEXT):
        raise InputError(f"data.noise.file = {params.file!r}: expected an index (.npy) or noisy captions (.txt)")
    return path


def make_noise(
    split: Split, params: NoiseParams, file: Path | None, objects_N: Sequence[Collection[str]] | None = None
) -> Shuffle | None:
    """The training split's noise: from `file` (see `noise_file`), else drawn; None for ratio 0.

    `objects_N`: what is in each image, for kind `category`.

    Raises:
        InputError: naming the value in `file` that does not fit the split.
    """
    if file is not None:
        permutation_M, kind = _read_index(file, split) if file.suffix == INDEX else (_read_captions(file, split), None)
        moved = int((permutation_M != np.arange(len(permutation_M))).sum())
        return Shuffle(permutation_M, moved, kind or "captions")
    if params.ratio == 0:
        return None
    draw = np.random.RandomState(params.seed)  # its streams are the same in every version of numpy
    if params.kind == "shuffle":
        return (_shuffled_images if params.unit == "image" else _shuffled_captions)(split, params.ratio, draw)
    chosen = _chosen(split, params.ratio, draw)
    same = Same(split.captions, split.caption_image)
    if params.kind == "nearest":
        return Shuffle(swaps_by_words(split.captions, chosen, same), len(chosen))
    labels_M: Sequence[Collection[str]]
    if params.kind == "noun":
        labels_M = caption_nouns(split.captions)
    else:
        assert objects_N is not None  # params.yaml allows it only where it is known
        labels_M = [objects_N[image] for image in split.caption_image]
    return Shuffle(swaps_by_label(labels_M, chosen, same, draw), len(chosen))


def noisy(split: Split, shuffle: Shuffle) -> Split:
    """The split with each row's image and its caption from `shuffle`."""
    return replace(split, captions=tuple(split.captions[caption] for caption in shuffle.permutation_M.tolist()))


def write_noise(folder: Path, split: Split, params: NoiseParams, file: Path | None, shuffle: Shuffle | None) -> str:
    """Write noise.json for the clean `split`; returns a line about it, empty without noise."""
    drawn = file is None
    record: dict[str, Any] = {
        "ratio": params.ratio if drawn else None,
        "kind": params.kind if drawn else None,
        "unit": params.unit if drawn else None,
        "seed": params.seed if drawn else None,
        "file": None,
        "chosen": 0,
        "wrong": 0,
        "permutation": None,
        "true_image": None,
    }
    line = ""
    if shuffle is not None:
        image_M = np.asarray(split.caption_image)
        true_image_M = image_M[shuffle.permutation_M]
        wrong = int((true_image_M != image_M).sum())
        record |= {
            "chosen": shuffle.chosen,
            "wrong": wrong,
            "permutation": shuffle.permutation_M.tolist(),
            "true_image": true_image_M.tolist(),
        }
        if file is not None:
            record["file"] = {"name": file.name, "sha256": sha256(file), "kind": shuffle.kind}
        line = f"noise: {shuffle.chosen} of {len(image_M)} captions shuffled, {wrong} wrong"
    # one line per key: one per number would give a million lines for COCO
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items())
    write_text(folder / NOISE.name, f"{{\n{rows}\n}}\n")
    return line


def _chosen(split: Split, ratio: float, draw: np.random.RandomState) -> NDArray[np.int64]:
    captions = len(split.captions)
    return np.sort(draw.permutation(captions)[: round(ratio * captions)])


def _shuffled_captions(split: Split, ratio: float, draw: np.random.RandomState) -> Shuffle:
    permutation_M, chosen = np.arange(len(split.captions)), _chosen(split, ratio, draw)
    permutation_M[chosen] = draw.permutation(chosen)
    return Shuffle(permutation_M, len(chosen))


def _shuffled_images(split: Split, ratio: float, draw: np.random.RandomState) -> Shuffle:
    """All captions of an image move together (DECL), to an image with equally many; images keep their rows."""
    rows = _rows_of_images(split)
    chosen = draw.permutation(len(rows))[: round(ratio * len(rows))]
    alike: dict[int, list[int]] = defaultdict(list)
    for image in sorted(chosen.tolist()):
        alike[len(rows[image])].append(image)
    permutation_M = np.arange(len(split.captions))
    for count in sorted(alike):
        for given, true in zip(alike[count], draw.permutation(alike[count]).tolist(), strict=True):
            permutation_M[rows[given]] = rows[true]
    return Shuffle(permutation_M, sum(len(rows[image]) for image in chosen))


def _rows_of_images(split: Split) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in split.images]
    for row, image in enumerate(split.caption_image):
        rows[image].append(row)
    return rows


def _read_index(file: Path, split: Split) -> tuple[NDArray[np.int64], str]:
    """The permutation of an index, and the kind of its values: captions ("permutation") or images ("image_index").

    With one caption per image both kinds may be valid; the values are then taken as captions. An index with an entry
    for each *image* ("image_permutation") moves all its captions: image n's are put with image `index[n]`.
    """
    captions, images = len(split.captions), len(split.images)
    try:
        # memory-mapped: a header with a larger size than the file is refused before memory is allocated
        index_M = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy's header reader raises many types on a damaged file
        raise InputError(f"{file}: not readable as .npy: {error}") from None
    if not isinstance(index_M, np.ndarray) or index_M.dtype.kind not in "iu":
        raise InputError(f"{file}: holds {getattr(index_M, 'dtype', 'several arrays')}, expected whole numbers")
    if index_M.shape not in ((captions,), (images,)):
        raise InputError(
            f"{file}: shape {index_M.shape}, expected ({captions},): a number for each training caption, or "
            f"({images},): for each image; an index fits the annotations that it was made for"
        )
    if of_images := index_M.shape != (captions,):
        index_M = index_M[np.asarray(split.caption_image)]
    outside = np.flatnonzero((index_M < 0) | (index_M >= captions))
    if len(outside):
        row = outside[0]
        raise InputError(f"{file}: entry {row} is {index_M[row]}, expected captions 0 to {captions - 1} or images")
    permutation_M = np.array(index_M, np.int64)
    times_M = np.bincount(permutation_M, minlength=captions)
    if (times_M == 1).all() and not of_images:
        return permutation_M, "permutation"
    of_image_M = np.bincount(split.caption_image, minlength=captions)  # 0 for numbers that are not images
    if (times_M == of_image_M).all():
        return _captions_of_index(permutation_M, split), "image_permutation" if of_images else "image_index"
    value = int(np.flatnonzero(times_M != of_image_M)[0])
    raise InputError(
        f"{file}: neither a permutation of {captions} captions nor images 0 to {images - 1} with as many captions as "
        f"before: {value} occurs {times_M[value]} times, image {value} has {of_image_M[value]} captions"
    )


def _captions_of_index(index_M: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """From NCR's convention (entry c is the new image of caption c): captions that stay keep their rows."""
    image_M = np.asarray(split.caption_image)
    permutation_M = np.arange(len(index_M))
    moving = np.flatnonzero(index_M != image_M)
    rows = moving[np.argsort(image_M[moving], kind="stable")]  # free rows, by image
    permutation_M[rows] = moving[np.argsort(index_M[moving], kind="stable")]
    return permutation_M


def _read_captions(file: Path, split: Split) -> NDArray[np.int64]:
    """The permutation that gives these noisy captions; of equal texts, the one in its own row first, then in order."""
    lines = read_lines(file)
    if len(lines) != len(split.captions):
        raise InputError(
            f"{file}: {len(lines)} lines, expected one for each of {len(split.captions)} training captions"
        )
    captions = [one_line(caption) for caption in split.captions]  # as `export` writes them
    permutation_M = np.full(len(lines), -1)
    free: dict[str, deque[int]] = defaultdict(deque)
    for row, (line, caption) in enumerate(zip(lines, captions, strict=True)):
        if line == caption:
            permutation_M[row] = row
        else:
            free[caption].append(row)
    known = set(captions)
    for row in np.flatnonzero(permutation_M < 0).tolist():
        if not free[lines[row]]:
            problem = "occurs more often than in" if lines[row] in known else "is none of"
            raise InputError(f"{file}: line {row + 1}: {lines[row][:80]!r} {problem} the training captions")
        permutation_M[row] = free[lines[row]].popleft()
    return permutation_M
