"""A whole split through the model, as evaluation sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.models.towers import MatchingModel
from pipeline.progress import progress
from pipeline.training.pairs import Inputs, moved
from pipeline.training.pixels import normalised


def encode_split(
    model: MatchingModel,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    label: str = "validation",
) -> tuple[Tensor, Tensor]:
    """Unit vectors of all images (N, D) and all captions (M, D) of a split, in evaluation mode."""
    return (
        encode_images(model, inputs, batch_size, device, mean, std, label),
        encode_captions(model, inputs, batch_size, device, label),
    )


@torch.inference_mode()
def encode_images(
    model: MatchingModel,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    label: str = "validation",
) -> Tensor:
    """Unit vectors of all images (N, D) of a split, in evaluation mode."""
    was_training = model.training
    model.eval()
    images = [
        model.encode_image(model_images(inputs.images(rows).to(device), mean, std))
        for rows in _chunks(len(inputs.names), batch_size, f"{label} images")
    ]
    model.train(was_training)
    return torch.cat(images)


@torch.inference_mode()
def encode_captions(
    model: MatchingModel, inputs: Inputs, batch_size: int, device: torch.device, label: str = "validation"
) -> Tensor:
    """Unit vectors of all captions (M, D) of a split, in evaluation mode."""
    was_training = model.training
    model.eval()
    texts = [
        model.encode_text(moved(inputs.texts(rows, training=False), device))
        for rows in _chunks(len(inputs.caption_image), batch_size, f"{label} captions")
    ]
    model.train(was_training)
    return torch.cat(texts)


def model_images(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels are normalised on the device; frozen features are what they are."""
    return normalised(images, mean, std) if images.dtype == torch.uint8 else images


def _chunks(count: int, size: int, label: str) -> Iterator[range]:
    chunks = [range(start, min(count, start + size)) for start in range(0, count, size)]
    return progress(chunks, label=label, total=len(chunks))
