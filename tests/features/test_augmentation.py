"""FNE's training augmentation: the published operations, decided by the seed and by nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import cos, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.features import augmentation
from pipeline.features.augmentation import OPERATIONS, Augmentation, apply

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def picture(width: int = 48, height: int = 40) -> Image.Image:
    """Soft noise, no value at either end, so that every operation has something to change."""
    noise = torch.randint(40, 200, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.numpy())


def test_the_seed_alone_decides() -> None:
    augment = Augmentation(32)
    for seed in range(10):
        torch.manual_seed(1)
        first = augment(picture(), seed)
        torch.manual_seed(2)
        assert torch.equal(Augmentation(32)(picture(), seed), first)


def test_other_seeds_give_other_pixels() -> None:
    augment = Augmentation(32)
    assert len({augment(picture(), seed).numpy().tobytes() for seed in range(20)}) == 20


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    Augmentation(32)(picture(), 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(20, 60), (60, 20), (32, 32), (7, 5)])
def test_pixels_are_square_bytes_whatever_the_image(size: tuple[int, int]) -> None:
    for seed in range(12):
        augmented = Augmentation(32)(picture(*size), seed)
        assert augmented.shape == (3, 32, 32)
        assert augmented.dtype == torch.uint8


def bilinear(picture_HW3: Bytes, matrix: list[list[float]]) -> Floats:
    """Pixel (x, y) moves to matrix · (x, y, 1); what comes from outside is 128. Place by place, from four others."""
    height, width, _ = picture_HW3.shape
    grey = np.pad(picture_HW3.astype(float), ((60, 60), (60, 60), (0, 0)), constant_values=128)
    moved, back = np.zeros(picture_HW3.shape), np.linalg.inv(np.array([*matrix, [0.0, 0.0, 1.0]]))
    for row, column in np.ndindex(height, width):
        x, y, _ = back @ [column, row, 1] + 60
        left, top = int(np.floor(x)), int(np.floor(y))
        for at_x, at_y in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            moved[row, column] += (1 - abs(x - at_x)) * (1 - abs(y - at_y)) * grey[at_y, at_x]
    return moved


def by_table(picture_HW3: Bytes, table_of: Callable[[Bytes], Any]) -> Bytes:
    """Each channel through a table of 256 values made of it; values are cut off, not rounded."""
    channels = [
        np.clip(table_of(channel), 0, 255).astype(np.uint8)[channel] for channel in np.moveaxis(picture_HW3, 2, 0)
    ]
    return np.stack(channels, axis=2)


def stretched(channel: Bytes) -> Any:
    low, high = int(channel.min()), int(channel.max())
    scale = 255 / (high - low)
    return np.arange(256) * scale - low * scale


def equalized(channel: Bytes) -> Any:
    count = np.bincount(channel.ravel(), minlength=256)
    step = (count.sum() - count[count > 0][-1]) // 255
    return (step // 2 + np.cumsum(count) - count) // step


def sharpened(picture_HW3: Bytes) -> Bytes:
    """1.36 times as far from the smoothed picture, edges left out; bytes overflow."""
    sharp = picture_HW3.astype(np.int64).copy()
    for row, column in np.ndindex(sharp.shape[0] - 2, sharp.shape[1] - 2):
        window = picture_HW3[row : row + 3, column : column + 3].astype(np.int64)
        smooth = np.round((window.sum(axis=(0, 1)) + 4 * window[1, 1]) / 13).astype(np.float32)
        sharp[row + 1, column + 1] = np.trunc(smooth + np.float32(1.36) * (window[1, 1].astype(np.float32) - smooth))
    return (sharp % 256).astype(np.uint8)


def published(operation: str, picture_HW3: Bytes, sign: int) -> Bytes | Floats:
    """The published operations, by their tables and 2 x 3 matrices, with NumPy alone; what is bilinear not rounded."""
    height, width, _ = picture_HW3.shape
    x, y, cosine, sine = width / 2, height / 2, cos(radians(21)), sin(radians(21)) * sign
    match operation:
        case "autocontrast":
            return by_table(picture_HW3, stretched)
        case "equalize":
            return by_table(picture_HW3, equalized)
        case "brightness":
            return by_table(picture_HW3, lambda _: np.arange(256) * 1.36)
        case "sharpness":
            return sharpened(picture_HW3)
    matrices: dict[str, list[list[float]]] = {
        "identity": [[1, 0, 0], [0, 1, 0]],
        "shear_x": [[1, 0.21 * sign, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [0.21 * sign, 1, 0]],
        "translate_x": [[1, 0, 7 * sign], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, 7 * sign]],
        "rotate": [
            [cosine, sine, (1 - cosine) * x - sine * y],
            [-sine, cosine, sine * x + (1 - cosine) * y],
        ],
    }
    return bilinear(picture_HW3, matrices[operation])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("values", [(0, 256), (40, 200)], ids=["all values", "soft"])
def test_every_pixel_is_that_of_the_published_operation(operation: str, sign: int, values: tuple[int, int]) -> None:
    picture_HW3 = np.random.default_rng(2).integers(*values, size=(37, 41, 3), dtype=np.uint8)
    found_3HW = apply(operation, torch.from_numpy(picture_HW3).permute(2, 0, 1), sign)
    assert found_3HW.dtype == torch.uint8
    apart = found_3HW.permute(1, 2, 0).numpy().astype(float) - published(operation, picture_HW3, sign)
    assert np.abs(apart).max() < 0.501, "nothing but rounding"


def test_a_picture_of_one_colour_has_no_contrast_to_raise() -> None:
    grey = torch.full((3, 16, 16), 90, dtype=torch.uint8)
    assert torch.equal(apply("autocontrast", grey, sign=1), grey)


def test_two_operations_are_drawn_evenly_and_half_of_them_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[tuple[str, int]] = []

    def noted(operation: str, values: Tensor, sign: int) -> Tensor:
        applied.append((operation, sign))
        return values

    monkeypatch.setattr(augmentation, "apply", noted)
    augment, images = Augmentation(16), 500
    for seed in range(images):
        augment(picture(16, 16), seed)
    assert len(applied) == pytest.approx(images, rel=0.15)  # two draws, each applied half of the time
    counts, expected = Counter(operation for operation, _ in applied), len(applied) / len(OPERATIONS)
    assert set(counts) == set(OPERATIONS)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 21.67  # chi-square, 9 degrees, 99 %
    assert sum(sign == 1 for _, sign in applied) == pytest.approx(len(applied) / 2, rel=0.15)


def places(height: int, width: int, step: int) -> Tensor:
    """Red says x, green y, in units of 1 / `step`; blue marks what lies within the picture."""
    x, y = torch.arange(width).expand(height, width), torch.arange(height)[:, None].expand(height, width)
    return torch.stack([step * x, step * y, torch.full((height, width), 255)]).to(torch.uint8)


def test_half_of_the_images_are_flipped_and_half_to_all_of_each_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "OPERATIONS", ("identity",))
    whole = Image.fromarray(places(100, 100, step=2).permute(1, 2, 0).numpy())
    kept, flipped, shapes = [], 0, []
    for seed in range(400):
        red, green, _ = Augmentation(50)(whole, seed).float() / 2 * 50 / 45  # 45 of 50 rows and columns are measured
        width, height = float(red[25, 47] - red[25, 2]), float(green[47, 25] - green[2, 25])
        flipped += width < 0
        kept.append(abs(width) * height / 100**2)
        shapes.append(abs(width) / height)
    assert flipped == pytest.approx(200, abs=40)
    assert 0.47 < min(kept) < 0.53 and 0.95 < max(kept) < 1.03  # pixels are whole numbers
    assert sum(kept) / 400 == pytest.approx(0.7, abs=0.03)  # below 3/4: not every shape of a large part fits
    assert 0.72 < min(shapes) < 0.85 and 1.2 < max(shapes) < 1.4


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(ValueError, match="'solarize'"):
        apply("solarize", torch.zeros(3, 4, 4, dtype=torch.uint8), sign=1)
