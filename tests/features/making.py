"""Inputs of a few rows, made from tensors: what tests of features, of the bank and of training read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.features.inputs import Inputs
from pipeline.features.shards import pack, shard_path
from pipeline.files import write_tensors
from pipeline.params import ModelParams, load_params

ROOT = Path(__file__).parents[2]
PAD = 0


def model_params(**changes: Any) -> ModelParams:
    """Section `model` of the repository's params.yaml with these changes."""
    return load_params(ROOT / "params.yaml").model.model_copy(update=changes)


def frozen_inputs(folder: Path, image_NW: Tensor, text_MW: Tensor, caption_image: Sequence[int]) -> Inputs:
    """A split of frozen features: caption m is of image `caption_image[m]`."""
    write_tensors(shard_path(folder, "images", 0), {"feature": image_NW})
    write_tensors(shard_path(folder, "captions", 0), {"feature": text_MW})
    return _opened(folder, len(image_NW), caption_image, model_params(train="heads"), augment=False)


def prepared_inputs(
    folder: Path,
    pixels_N3HW: Tensor,
    tokens: Sequence[Sequence[int]],
    caption_image: Sequence[int],
    *,
    augment: bool = False,
    **model: Any,
) -> Inputs:
    """A split for training towers: square pictures, of the size that the model sees, and token ids."""
    pictures = []
    for pixels_3HW in pixels_N3HW:
        content = io.BytesIO()
        Image.fromarray(pixels_3HW.permute(1, 2, 0).numpy()).save(content, "PNG")
        pictures.append(torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8))
    write_tensors(shard_path(folder, "images", 0), pack(pictures))
    write_tensors(shard_path(folder, "captions", 0), pack([torch.tensor(row, dtype=torch.int32) for row in tokens]))
    settings = model_params(**({"train": "towers", "image_size": pixels_N3HW.shape[-1]} | model))
    return _opened(folder, len(pictures), caption_image, settings, augment=augment)


def _opened(folder: Path, images: int, caption_image: Sequence[int], model: ModelParams, *, augment: bool) -> Inputs:
    split = Split(
        tuple(f"{number}.png" for number in range(images)),
        tuple(f"caption {number}" for number in range(len(caption_image))),
        tuple(caption_image),
    )
    return Inputs(folder, split, model, PAD, augment=augment)
