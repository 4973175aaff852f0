"""Encode pictures and sentences with a trained model, without a dataset and without params.yaml.

Shapes: B pictures or captions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.features.pixels import square_pixels
from pipeline.features.tokens import encoded_captions
from pipeline.models.build import load_end_to_end, read_model_record
from pipeline.runtime.processes import own_device

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64


class Embedder:
    """Encodes as evaluation does: same resize, caption clean-up, tokens and padding.

    Args:
        trained: models/trained or its `last`.
        base: models/base, read only for a model of heads over frozen towers.
    """

    def __init__(self, trained: Path, base: Path) -> None:
        """Load the weights; raises InputError for a part that is missing or does not fit."""
        self._record = read_model_record(trained)
        self._model, source = load_end_to_end(trained, base)
        self._tokenizer = source.tokenizer
        self._model.eval().to(own_device())

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image]) -> Tensor:
        """Unit vectors (B, D) of RGB pictures of any size."""
        parts = [torch.empty(0, self._model.width)]
        for start in range(0, len(pictures), BATCH):
            chosen, record = pictures[start : start + BATCH], self._record
            pixels = [square_pixels(picture, record.image_size, record.resize) for picture in chosen]
            parts.append(self._model.encode_image(torch.stack(pixels).to(self._model.device)).cpu())
        return torch.cat(parts)

    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, D) of sentences."""
        if not captions:
            return torch.empty(0, self._model.width)
        model = self._model
        return encoded_captions(model.encode_text, model.device, self._tokenizer, captions, self._record)
