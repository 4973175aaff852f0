"""A split's vectors from one model.

Shapes: N images, M captions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.retrieval.ranks import retrieval_ranks


@dataclass(frozen=True)
class Encoded:
    """An encoded split: unit vectors (N, D) and (M, D), and each caption's image (M,)."""

    image_ND: Tensor
    text_MD: Tensor
    caption_image_M: Tensor

    def ranks(self) -> tuple[Tensor, Tensor]:
        """(i2t_N, t2i_M), from 0."""
        return retrieval_ranks(self.image_ND, self.text_MD, self.caption_image_M)
