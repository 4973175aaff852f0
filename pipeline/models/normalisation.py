"""The pixels that an image tower expects: their mean and standard deviation, and which part of a picture they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Resize = Literal["square", "crop"]  # the whole picture, or its middle
HALF = (0.5, 0.5, 0.5)  # of ViT's own image processor; used for a ViT without one


def resize_by(asked: Literal["auto", "square", "crop"], own: Resize | None) -> Resize:
    """How images become squares by `model.resize`; "auto": the tower's own way, else the whole picture."""
    return own or "square" if asked == "auto" else asked


def normalised(pixels_B3HW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels to float32 with zero mean and unit standard deviation per channel, on the pixels' device."""
    # non_blocking: a plain copy to a GPU makes the host wait for all that the GPU still computes
    channels = (torch.tensor(numbers).view(3, 1, 1) for numbers in (mean, std))
    shift, scale = (numbers.to(pixels_B3HW.device, non_blocking=True) for numbers in channels)
    return (pixels_B3HW.float() / 255 - shift) / scale


def channels(values: Any) -> tuple[float, ...]:
    """Three finite numbers; ViT's own if `values` is missing.

    Raises:
        ValueError: or TypeError, for anything else.
    """
    numbers = tuple(float(value) for value in values or HALF)
    if len(numbers) != len(HALF) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"a mean or standard deviation of {numbers}, expected three numbers")
    return numbers
