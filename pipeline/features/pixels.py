"""From a decoded image to the image tower's pixels. All code that encodes images with frozen towers uses this module.

Shapes: N images, W features.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.features.precision import Precision, autocast
from pipeline.models.normalisation import Resize, normalised

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.data.images import ImageArchive

BATCH = 64


class PixelSettings(NamedTuple):
    """How images are prepared for a tower: pixels a side, and the mean and standard deviation of each channel."""

    size: int
    resize: Resize
    mean: Sequence[float]
    std: Sequence[float]


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


@torch.inference_mode()
def encoded_images(
    tower: nn.Module,
    device: torch.device,
    archive: ImageArchive,
    names: Sequence[str],
    settings: PixelSettings,
    precision: Precision = "float32",
) -> Tensor:
    """Encode images with an image tower on `device`; (N, W), float32, on the CPU. Other threads decode meanwhile."""
    torch.backends.cudnn.allow_tf32 = False  # unless told, cuDNN takes TF32 for convolutions in float32
    # channels last: convolutions read it directly, other layouts are converted for each of them
    tower, encoded = tower.to(memory_format=torch.channels_last), []
    with ThreadPoolExecutor() as pool, autocast(device, precision):
        pixels = pool.map(lambda name: square_pixels(archive.decode(name), settings.size, settings.resize), names)
        for _ in range(0, len(names), BATCH):
            batch = torch.stack(list(islice(pixels, BATCH)))
            ready = normalised(batch.to(device), settings.mean, settings.std)
            encoded.append(tower(ready.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(encoded)
