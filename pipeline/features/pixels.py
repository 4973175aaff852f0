"""From a decoded image to what the image tower sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def square_pixels(image: Image, size: int) -> Tensor:
    """Bicubic resize to a square, as in testing: (3, size, size), uint8."""
    from PIL.Image import Resampling

    resized = image if image.size == (size, size) else image.resize((size, size), Resampling.BICUBIC)
    return torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
