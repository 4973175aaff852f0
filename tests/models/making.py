"""Small towers for tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.models.normalisation import HALF
from pipeline.models.pretrained import Pretrained
from pipeline.models.small import small_image_backbone, small_text_backbone, word_tokenizer


def two_towers(words: Sequence[str], *, positions: int = 8, text_width: int = 12) -> Pretrained:
    """A ViT for 32 pixels, of width 16, and a BERT; the same random weights at every call."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(words)
    tokenizer.model_max_length = positions
    image = small_image_backbone(size=32, patch=16, width=16, layers=1, heads=2)
    text = small_text_backbone(vocabulary_size=len(tokenizer), width=text_width, layers=1, heads=2, positions=positions)
    source = {side: {"name": side, "revision": None} for side in ("image", "text")}
    return Pretrained(image.eval(), text.eval(), tokenizer, mean=HALF, std=HALF, source=source)
