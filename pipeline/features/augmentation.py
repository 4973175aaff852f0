"""FNE's training augmentation: random crop, flip, then two random operations, as in the published code."""

from __future__ import annotations

from math import cos, radians, sin
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    from PIL.Image import Image

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
)
DRAWN = 2  # operations per image, with replacement
PROBABILITY = 0.5  # that a drawn operation is applied
FACTOR = 1.36  # of brightness and sharpness
SHEAR = 0.21  # tangent
TRANSLATION = 7  # pixels
ROTATION = 21.0  # degrees
FILL = 128.0

Row = tuple[float, float, float]


class Augmentation:
    """RandomResizedCrop (scale 0.5 to 1, bicubic), flip, and two of `OPERATIONS`; the seed decides everything."""

    def __init__(self, size: int) -> None:
        """Make (3, size, size) uint8 pixels."""
        self.crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        self.flip = v2.RandomHorizontalFlip()

    def __call__(self, image: Image, seed: int) -> Tensor:
        """Augment one image; a seed gives the same pixels in any process, and the global generator does not change."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels = self.flip(self.crop(functional.pil_to_tensor(image)))
            for _ in range(DRAWN):
                operation = OPERATIONS[int(torch.randint(len(OPERATIONS), ()))]
                applied, positive = (torch.rand(2) < PROBABILITY).tolist()
                if applied:
                    pixels = apply(operation, pixels, sign=1 if positive else -1)
        return pixels


def apply(operation: str, pixels: Tensor, sign: int) -> Tensor:
    """One operation of `OPERATIONS` on (3, H, W) uint8; `sign` is the direction of shear, translation and rotation."""
    match operation:
        case "identity":
            return pixels
        case "autocontrast":
            return _autocontrast(pixels)
        case "equalize":
            return functional.equalize(pixels)
        case "brightness":
            return functional.adjust_brightness(pixels, FACTOR)
        case "sharpness":
            return _sharpened(pixels)
        case "shear_x":
            return _moved(pixels, (1, sign * SHEAR, 0), (0, 1, 0))
        case "shear_y":
            return _moved(pixels, (1, 0, 0), (sign * SHEAR, 1, 0))
        case "translate_x":
            return _moved(pixels, (1, 0, sign * TRANSLATION), (0, 1, 0))
        case "translate_y":
            return _moved(pixels, (1, 0, 0), (0, 1, sign * TRANSLATION))
        case "rotate":
            return _moved(pixels, *_rotation(pixels.shape[2] / 2, pixels.shape[1] / 2, radians(sign * ROTATION)))
    raise ValueError(f"unknown operation {operation!r}")


def _rotation(x: float, y: float, angle: float) -> tuple[Row, Row]:
    """Counter-clockwise about (x, y), radians."""
    along, across = cos(angle), sin(angle)
    return (along, across, (1 - along) * x - across * y), (-across, along, across * x + (1 - along) * y)


def _moved(pixels: Tensor, *rows: Row) -> Tensor:
    """Move pixel (x, y) to `rows` · (x, y, 1), bilinear; uncovered pixels become grey; (0, 0) is the corner pixel."""
    _, height, width = pixels.shape
    back = torch.linalg.inv(torch.tensor([*rows, (0, 0, 1)], dtype=torch.float64))[:2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    source_HW2 = torch.stack([x, y, torch.ones_like(x)], dim=2).double() @ back.T
    grid_HW2 = source_HW2 / torch.tensor([width - 1, height - 1]) * 2 - 1
    # grid_sample takes 0 for what lies outside: shift the values so that 0 is grey
    moved = grid_sample((pixels - FILL)[None], grid_HW2[None].float(), align_corners=True)[0]
    return (moved + FILL).round().to(torch.uint8)


def _autocontrast(pixels: Tensor) -> Tensor:
    """Each channel's darkest value becomes 0 and its lightest 255."""
    low, high = (bound(pixels, dim=(1, 2), keepdim=True).double() for bound in (torch.amin, torch.amax))
    scale = 255 / (high - low)
    stretched = (pixels * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return stretched.where(high > low, pixels)


def _sharpened(pixels: Tensor) -> Tensor:
    """Sharpen all but the border pixels; values outside of 0 to 255 wrap around.

    So bright edges get dark dots, as in the published code, which converts to bytes without clipping.
    """
    sharp = pixels.float()
    middle = sharp[:, 1:-1, 1:-1]
    smooth = ((avg_pool2d(sharp, 3, stride=1) * 9 + 4 * middle) / 13).round()
    middle.copy_(smooth + FACTOR * (middle - smooth))
    return sharp.to(torch.int32).to(torch.uint8)
