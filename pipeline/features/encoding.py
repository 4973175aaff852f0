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

    def images(rows: range) -> Tensor:
        return model.encode_image(inputs.images(rows).to(model.device))

    def captions(rows: range) -> Tensor:
        return model.encode_text(inputs.texts(rows, training=False).to(model.device, non_blocking=True))

    image_ND = _shared(model, images, len(inputs.names), batch_size, f"{label} images")
    text_MD = _shared(model, captions, len(inputs.caption_image), batch_size, f"{label} captions")
    return image_ND, text_MD


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
