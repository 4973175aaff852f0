"""Pairs with a known truth: images and captions are noisy linear views of the same hidden vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Planted(NamedTuple):
    image_NW: Tensor
    caption_MV: Tensor
    caption_image_M: Tensor


def planted(
    images: int, captions: int | Tensor = 5, *, noise: float = 0.5, seed: int = 0, hidden: int = 8, width: int = 16
) -> Planted:
    """`captions` of each image, or a count an image; features have means, scales and noise of their own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count_N = torch.as_tensor(captions).expand(images)
    caption_image_M = torch.arange(images).repeat_interleave(count_N)
    hidden_NH, to_image_HW, to_text_HV = normal(images, hidden), normal(hidden, width), normal(hidden, width)
    image_NW = (hidden_NH @ to_image_HW + noise * normal(images, width)) * (1 + 5 * normal(width).abs()) + normal(width)
    caption_MV = (hidden_NH[caption_image_M] @ to_text_HV) + noise * normal(len(caption_image_M), width) + normal(width)
    return Planted(image_NW, caption_MV, caption_image_M)


def ragged(images: int, most: int, seed: int) -> Tensor:
    """The image of each caption, in no order: up to `most` captions an image, also none."""
    generator = torch.Generator().manual_seed(seed)
    caption_image_M = torch.arange(images).repeat_interleave(torch.randint(most + 1, (images,), generator=generator))
    return caption_image_M[torch.randperm(len(caption_image_M), generator=generator)]
