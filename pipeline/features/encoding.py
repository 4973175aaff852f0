"""A whole split through the model, as evaluation sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.features.inputs import Inputs, moved
from pipeline.features.pixels import normalised
from pipeline.models.towers import MatchingModel
from pipeline.progress import progress
from pipeline.runtime.processes import gather, local_span


def encode_split(
    model: MatchingModel,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    label: str = "validation",
) -> tuple[Tensor, Tensor]:
    """Unit vectors of all images (N, D) and all captions (M, D) of a split, in evaluation mode.

    Each process encodes a part and has all in the end.
    """
    return (
        encode_images(model, inputs, batch_size, device, mean, std, label),
        encode_captions(model, inputs, batch_size, device, label),
    )


def encode_images(
    model: MatchingModel,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
    mean: Sequence[float],
    std: Sequence[float],
    label: str = "validation",
) -> Tensor:
    """Unit vectors of all images (N, D) of a split; as `encode_split`."""

    def encode(rows: range) -> Tensor:
        return model.encode_image(model_images(inputs.images(rows).to(device), mean, std))

    return _shared(model, encode, len(inputs.names), batch_size, f"{label} images")


def encode_captions(
    model: MatchingModel, inputs: Inputs, batch_size: int, device: torch.device, label: str = "validation"
) -> Tensor:
    """Unit vectors of all captions (M, D) of a split; as `encode_split`."""

    def encode(rows: range) -> Tensor:
        return model.encode_text(moved(inputs.texts(rows, training=False), device))

    return _shared(model, encode, len(inputs.caption_image), batch_size, f"{label} captions")


def model_images(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels are normalised on the device; frozen features are what they are."""
    return normalised(images, mean, std) if images.dtype == torch.uint8 else images


@torch.inference_mode()
def _shared(model: MatchingModel, encode: Callable[[range], Tensor], count: int, size: int, label: str) -> Tensor:
    was_training = model.training
    model.eval()
    own = local_span(count)
    part = own or range(1)  # of fewer rows than processes, one too many tells the width
    chunks = [part[start : start + size] for start in range(0, len(part), size)]
    rows = [encode(rows) for rows in progress(chunks, label=label, total=len(chunks))]
    model.train(was_training)
    return gather(torch.cat(rows)[: len(own)], count)
