"""Encoded images and captions for searches, kept from one search to the next.

Shapes: N images, M captions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.data.images import ImageArchive, decode, is_image
from pipeline.data.splits.format import Split, read_split
from pipeline.errors import InputError
from pipeline.evaluation.embedding import BATCH, Embedder
from pipeline.evidence.whole import united
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.files import digest_of, main_root, read_tensors, write_tensors
from pipeline.models.build import load_trained, read_model_record
from pipeline.params import Params
from pipeline.paths import FEATURES, IMAGES, SPLIT, TRAINED
from pipeline.progress import progress
from pipeline.runtime.processes import own_device

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT = ".checkpoints/search"


@dataclass(frozen=True)
class Index:
    """Images and captions with their vectors, and how to open an image."""

    split: Split
    image_ND: Tensor
    text_MD: Tensor
    picture: Callable[[str], Image]


def split_index(params: Params, names: Sequence[str]) -> Index:
    """The images and captions of these splits."""
    splits = {name: read_split(SPLIT / f"{name}.json") for name in names}

    def encode() -> dict[str, Tensor]:
        encoded = []
        for name in names:
            inputs = open_inputs(params.model, FEATURES, SPLIT, name, trained=read_model_record(TRAINED))
            model = load_trained(TRAINED, inputs.feature_widths).to(own_device())
            encoded.append(encode_split(model, inputs, params.evaluate.batch_size, name))
        images, texts = (torch.cat(parts).cpu() for parts in zip(*encoded, strict=True))
        return {"image_ND": images, "text_MD": texts}

    kept = _kept([SPLIT / f"{name}.json" for name in names] + [FEATURES / "features.json"], encode)
    return Index(united(splits), kept["image_ND"], kept["text_MD"], ImageArchive(IMAGES).decode)


def folder_index(folder: Path, embedder: Embedder, warn: Callable[[str], None]) -> Index:
    """The pictures below a folder of one's own, without captions. Those that do not decode are skipped, with a warning.

    Raises:
        InputError: when there is no picture, or none that decodes.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_image(path.name)]
    if not files:
        raise InputError(f"--folder {folder}: no picture in it")

    def encode() -> dict[str, Tensor]:
        starts = range(0, len(files), BATCH)
        parts, rows = [], list[int]()
        for start in progress(starts, label="pictures", total=len(starts), rows=BATCH):
            pictures = []
            for row in range(start, min(start + BATCH, len(files))):
                with suppress(InputError):
                    pictures.append(_opened(files[row]))
                    rows.append(row)
            parts.append(embedder.images(pictures))
        return {"image_ND": torch.cat(parts), "row_N": torch.tensor(rows, dtype=torch.long)}

    kept = _kept(files, encode)
    image_ND = kept["image_ND"]
    if len(image_ND) < len(files):
        readable = set(kept["row_N"].tolist())
        damaged = [path for row, path in enumerate(files) if row not in readable]
        if not readable:
            _opened(files[0])  # says what is wrong with it
        warn(f"skipped: {len(damaged)} of {len(files)} pictures do not decode; the first is {damaged[0]}")
        files = [path for row, path in enumerate(files) if row in readable]
    split = Split.of([(str(path), [""]) for path in files])
    return Index(split, image_ND, torch.empty(0, image_ND.shape[1]), lambda name: _opened(Path(name)))


def _opened(path: Path) -> Image:
    return decode(path.read_bytes(), str(path))


def _kept(files: Sequence[Path], encode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `encode` makes, written once for these files and this model: by size and time of change."""
    model = [path for path in sorted(TRAINED.rglob("*")) if path.is_file()]
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in (*model, *files)]
    place = main_root() / KEPT / f"{digest_of(stamps)[:20]}.safetensors"
    if not place.exists():
        write_tensors(place, encode())
    return read_tensors(place, "train")
