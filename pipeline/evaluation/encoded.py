"""A split's vectors from one model.

Shapes: N images, M captions, D width, P pairs of an image and a caption.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.retrieval.ranks import retrieval_ranks

PAIR_CHUNK = 1 << 16  # pairs whose vectors are in memory at a time


@dataclass(frozen=True)
class Encoded:
    """An encoded split: unit vectors (N, D) and (M, D), and each caption's image (M,)."""

    image_ND: Tensor
    text_MD: Tensor
    caption_image_M: Tensor

    def ranks(self) -> tuple[Tensor, Tensor]:
        """(i2t_N, t2i_M), from 0."""
        return retrieval_ranks(self.image_ND, self.text_MD, self.caption_image_M)


def pair_similarities(encoded: Encoded, image_P: Tensor, caption_P: Tensor) -> Tensor:
    """The similarity of the named pairs, (P,)."""
    parts = [
        (encoded.image_ND[images] * encoded.text_MD[captions]).sum(dim=1)
        for images, captions in zip(image_P.split(PAIR_CHUNK), caption_P.split(PAIR_CHUNK), strict=True)
    ]
    return torch.cat(parts)
