"""A trained model by itself: pictures and sentences into its space, with no data set and no params.yaml around it.

Shapes: B pictures or captions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.data.captions import clean_caption
from pipeline.features.make import padded, tokenised
from pipeline.features.pixels import normalised, square_pixels
from pipeline.models import pretrained
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.towers import MatchingModel, Tokens, tower_widths
from pipeline.training.build import heads_over, load_heads

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64


class Embedder:
    """Encodes as evaluation does: the same resize, clean-up, tokens and padding.

    Args:
        trained: models/trained or its `last`.
        base: models/base, read only where the model is heads over frozen towers.
    """

    def __init__(self, trained: Path, base: Path) -> None:
        """Load the weights; InputError for a part that is missing or does not fit."""
        self._record = pretrained.read_record(trained / "model.json")
        frozen = self._record["train"] == "heads"
        source = pretrained.load(base if frozen else trained)
        self._tokenizer = source.tokenizer
        towers = image_tower(source.image).eval(), text_tower(source.text, self._record["pooling"]).eval()
        widths = tower_widths(*towers, self._record["image_size"])
        heads = heads_over(widths, self._record["width"], self._record["train"], self._record["family"])
        self._model = MatchingModel(*towers, *heads)
        load_heads(trained, self._model)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.eval().to(self._device)

    @property
    def width(self) -> int:
        """D."""
        return int(self._record["width"])

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image]) -> Tensor:
        """Unit vectors (B, D) of RGB pictures of any size."""
        size, mean, deviation = (self._record[key] for key in ("image_size", "mean", "std"))
        parts = [torch.empty(0, self.width)]
        for start in range(0, len(pictures), BATCH):
            pixels = torch.stack([square_pixels(picture, size) for picture in pictures[start : start + BATCH]])
            parts.append(self._model.encode_image(normalised(pixels.to(self._device), mean, deviation)).cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (B, D) of sentences."""
        fixed = self._record["words"] if self._record["pooling"] == "mean_all" else None
        parts = [torch.empty(0, self.width)]
        for start in range(0, len(captions), BATCH):
            cleaned = captions[start : start + BATCH]
            if self._record["captions"] == "cleaned":
                cleaned = [clean_caption(caption, self._record["words"]) for caption in cleaned]
            packed = tokenised(self._tokenizer, cleaned)
            rows = [packed["value"][a:b] for a, b in zip(packed["offset"], packed["offset"][1:], strict=False)]
            tokens = padded(rows, self._tokenizer.pad_token_id, fixed)
            moved = Tokens(tokens.ids.to(self._device), tokens.mask.to(self._device))
            parts.append(self._model.encode_text(moved).cpu())
        return torch.cat(parts)
