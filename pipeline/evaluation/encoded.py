"""A split's vectors from one model.

Shapes: N images, M captions, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """An encoded split: unit vectors (N, D) and (M, D), and each caption's image (M,)."""

    image_ND: Tensor
    text_MD: Tensor
    caption_image_M: Tensor
