"""Write SCAN-style text, which NPC's published code and `pipeline.data.splits.annotations` read.

`{train,dev,test}_caps.txt` have one caption per line, with an image's captions together; `train_ids.txt` has one id per
image, `dev_ids.txt` and `test_ids.txt` one per caption.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.acquire.sources import SCAN_FILES, SOURCES, Source, coco_identity
from pipeline.data.captions import one_line
from pipeline.data.images import is_image
from pipeline.data.splits.format import SPLITS, Split, read_split
from pipeline.data.splits.truth_file import read_noise
from pipeline.errors import InputError
from pipeline.files import write_bytes

PUBLISHED = {"train": "train", "val": "dev", "test": "test"}
NAMES = "image_name.txt"


def write_scan(split_folder: Path, source_name: str, folder: Path) -> list[str]:
    """Write the splits of `split_folder` into `folder`; returns lines for the user.

    With noise, `train_caps.txt` has the true captions, `{ratio}_noise_train_caps.txt` the noisy ones and
    `{ratio}_noise_index.npy` the permutation, either of which `data.noise.file` can name. A line break inside a caption
    becomes a space.

    Raises:
        InputError: when the images of a split differ in their number of captions, or `folder` holds other content.
    """
    splits = {name: read_split(split_folder / f"{name}.json") for name in SPLITS}
    noise = read_noise(split_folder)
    counts = {name: _captions_each(split, split_folder / f"{name}.json") for name, split in splits.items()}
    names = [image for split in splits.values() for image in split.images]
    identities = _identities(names, SOURCES[source_name])
    files: dict[str, bytes] = {}
    if identities is None:
        identities = {name: str(number) for number, name in enumerate(names)}
        files[NAMES] = _lines(names)
    for name, split in splits.items():
        times = 1 if name == "train" else counts[name]
        captions = [one_line(caption) for caption in split.captions]
        if name == "train" and noise is not None:
            files[f"{noise.ratio:.4g}_noise_train_caps.txt"] = _lines(captions)
            index = io.BytesIO()
            np.save(index, noise.permutation_M, allow_pickle=False)
            files[f"{noise.ratio:.4g}_noise_index.npy"] = index.getvalue()
            captions = [captions[row] for row in noise.permutation_M.argsort()]
        files[f"{PUBLISHED[name]}_ids.txt"] = _lines(
            [identities[image] for image in split.images for _ in range(times)]
        )
        files[f"{PUBLISHED[name]}_caps.txt"] = _lines(captions)
    _write(folder, files)
    lines = [f"{name}: {len(split.images)} images, {counts[name]} captions each" for name, split in splits.items()]
    return [*lines, f"{folder}: {', '.join(files)}"]


def _captions_each(split: Split, path: Path) -> int:
    count_N = np.bincount(split.caption_image)
    different = np.flatnonzero(count_N != count_N[0])
    if len(different):
        other = different[0]
        raise InputError(
            f"{path}: SCAN-style text has no place for different numbers of captions: image {split.images[0]!r} has "
            f"{count_N[0]}, image {split.images[other]!r} has {count_N[other]}"
        )
    return int(count_N[0])


def _identities(names: Sequence[str], source: Source) -> dict[str, str] | None:
    """Ids that the dataset's reader maps back to the same images; None if that needs image_name.txt."""
    if "scan" not in source.layouts:
        source = SOURCES["folder"]
    if source.layouts["scan"].files != SCAN_FILES:
        return None
    identities = {}
    for name in names:
        digits = coco_identity(name)
        identity = name.removesuffix(".jpg") if digits == name else str(int(digits))
        if (
            "/" in identity
            or is_image(identity)
            or source.identity(source.scan_image(identity)) != source.identity(name)
        ):
            return None
        identities[name] = identity
    return identities


def _lines(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        if path.exists() and path.read_bytes() != content:
            raise InputError(f"{path}: is there already, with other content; name another folder or remove it")
    if NAMES not in files and (folder / NAMES).exists():
        raise InputError(f"{folder / NAMES}: is of another split, and these ids would be read by it; remove it")
    for name, content in files.items():
        write_bytes(folder / name, content)
