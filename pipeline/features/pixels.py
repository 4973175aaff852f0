"""From a decoded image to the image tower's pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["square", "crop"]


def square_pixels(image: Image, size: int, resize: Resize = "square") -> Tensor:
    """Bicubic resize to a square, as in testing: (3, size, size), uint8.

    `resize` is "square": the whole picture, its aspect not kept (FNE); or "crop": the shorter side becomes `size`, then
    a centre crop (CLIP's own preprocessing, Radford et al. 2021).
    """
    from PIL.Image import Resampling

    resized = image
    if resize == "crop" and image.width != image.height:
        shorter = min(image.size)
        width, height = (size * side // shorter for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        resized = image.resize((width, height), Resampling.BICUBIC).crop((left, top, left + size, top + size))
    if resized.size != (size, size):
        resized = resized.resize((size, size), Resampling.BICUBIC)
    return torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
