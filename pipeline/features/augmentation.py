"""FNE's training augmentation: random crop, flip, then two random operations (methods, section 1, recipe)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
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
DRAWN = 2  # operations an image, with replacement
PROBABILITY = 0.5  # that a drawn operation is applied
FACTOR = 1.36  # of brightness and sharpness
SHEAR = 0.21  # tangent
TRANSLATION = 7  # pixels
ROTATION = 21.0  # degrees
FILL = [128.0, 128.0, 128.0]


class Augmentation:
    """RandomResizedCrop (scale 0.5 to 1, bicubic), flip, and two of `OPERATIONS`; the seed decides everything."""

    def __init__(self, size: int) -> None:
        """Give out (3, size, size) uint8 pixels."""
        self.crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        self.flip = v2.RandomHorizontalFlip()

    def __call__(self, image: Image, seed: int) -> Tensor:
        """Augment one image; the same seed gives the same pixels in any process, and the global generator is kept."""
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
    """One operation of `OPERATIONS` on (3, H, W) uint8; `sign` turns shears, translations and rotations around."""
    degrees = float(torch.rad2deg(torch.atan(torch.tensor(SHEAR))))
    match operation:
        case "identity":
            return pixels
        case "autocontrast":
            return functional.autocontrast(pixels)
        case "equalize":
            return functional.equalize(pixels)
        case "brightness":
            return functional.adjust_brightness(pixels, FACTOR)
        case "sharpness":
            return functional.adjust_sharpness(pixels, FACTOR)
        case "shear_x":
            return _affine(pixels, shear=[sign * degrees, 0.0])
        case "shear_y":
            return _affine(pixels, shear=[0.0, sign * degrees])
        case "translate_x":
            return _affine(pixels, translate=[sign * TRANSLATION, 0])
        case "translate_y":
            return _affine(pixels, translate=[0, sign * TRANSLATION])
        case "rotate":
            return functional.rotate(pixels, sign * ROTATION, fill=FILL)
    raise ValueError(f"unknown operation {operation!r}")


def _affine(pixels: Tensor, *, shear: list[float] | None = None, translate: list[int] | None = None) -> Tensor:
    return functional.affine(
        pixels, angle=0.0, translate=translate or [0, 0], scale=1.0, shear=shear or [0.0, 0.0], fill=FILL
    )
