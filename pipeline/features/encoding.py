"""Encode a whole split with the model, without augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.features.inputs import Inputs
from pipeline.models.towers import MatchingModel
from pipeline.progress import progress
from pipeline.runtime.processes import gather, local_span


def encode_split(
    model: MatchingModel, inputs: Inputs, batch_size: int, label: str = "validation"
) -> tuple[Tensor, Tensor]:
    """Unit vectors of all images (N, D) and all captions (M, D) of a split, in evaluation mode, on the model's device.

    Each process encodes a part, and all processes return all rows.
    """
    return encode_images(model, inputs, batch_size, label), encode_captions(model, inputs, batch_size, label)


def encode_images(model: MatchingModel, inputs: Inputs, batch_size: int, label: str = "validation") -> Tensor:
    """Unit vectors of all images (N, D) of a split, see `encode_split`."""

    def encode(rows: range) -> Tensor:
        return model.encode_image(inputs.images(rows).to(model.device))

    return _shared(model, encode, len(inputs.names), batch_size, f"{label} images")


def encode_captions(model: MatchingModel, inputs: Inputs, batch_size: int, label: str = "validation") -> Tensor:
    """Unit vectors of all captions (M, D) of a split, see `encode_split`."""

    def encode(rows: range) -> Tensor:
        return model.encode_text(inputs.texts(rows, training=False).to(model.device, non_blocking=True))

    return _shared(model, encode, len(inputs.caption_image), batch_size, f"{label} captions")


@torch.inference_mode()
def _shared(model: MatchingModel, encode: Callable[[range], Tensor], count: int, size: int, label: str) -> Tensor:
    was_training = model.training
    model.eval()
    own = local_span(count)
    part = own or range(1)  # a process without rows encodes one, to learn the width
    chunks = [part[start : start + size] for start in range(0, len(part), size)]
    rows = [encode(rows) for rows in progress(chunks, label=label, rows=size)]
    model.train(was_training)
    return gather(torch.cat(rows)[: len(own)], count)
