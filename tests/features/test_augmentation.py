"""FNE's training augmentation: decided by its seed, and by nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.features import augmentation
from pipeline.features.augmentation import OPERATIONS, Augmentation, apply

SIDED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


def picture(width: int = 48, height: int = 40) -> Image.Image:
    """Soft noise, no value at either end, so that every operation has something to change."""
    noise = torch.randint(40, 200, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.numpy())


def pixels() -> Tensor:
    return torch.randint(40, 200, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_same_seed_gives_the_same_pixels() -> None:
    augment = Augmentation(32)
    for seed in range(10):
        assert torch.equal(augment(picture(), seed), Augmentation(32)(picture(), seed))


def test_other_seeds_give_other_pixels() -> None:
    augment = Augmentation(32)
    assert len({augment(picture(), seed).numpy().tobytes() for seed in range(20)}) == 20


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    Augmentation(32)(picture(), 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_has_no_say() -> None:
    torch.manual_seed(1)
    first = Augmentation(32)(picture(), 5)
    torch.manual_seed(2)
    assert torch.equal(Augmentation(32)(picture(), 5), first)


@pytest.mark.parametrize("size", [(20, 60), (60, 20), (32, 32), (7, 5)])
def test_pixels_are_square_bytes_whatever_the_image(size: tuple[int, int]) -> None:
    for seed in range(12):
        augmented = Augmentation(32)(picture(*size), seed)
        assert augmented.shape == (3, 32, 32)
        assert augmented.dtype == torch.uint8


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_keeps_shape_and_type_and_all_but_identity_change_something(operation: str) -> None:
    changed = apply(operation, pixels(), sign=1)
    assert changed.shape == (3, 32, 32)
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, pixels()) == (operation == "identity")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_sign_turns_geometry_around_and_nothing_else(operation: str) -> None:
    both = [apply(operation, pixels(), sign=sign) for sign in (1, -1)]
    assert torch.equal(*both) == (operation not in SIDED)


def test_translation_is_by_7_pixels_and_fills_with_grey() -> None:
    moved = apply("translate_x", pixels(), sign=1)
    assert torch.equal(moved[:, :, 7:], pixels()[:, :, :-7])
    assert bool((moved[:, :, :7] == 128).all())
    back = apply("translate_y", pixels(), sign=-1)
    assert torch.equal(back[:, :-7], pixels()[:, 7:])


def test_brightness_is_raised_by_the_published_factor() -> None:
    expected = (pixels().double() * 1.36).clamp(max=255)
    assert float((apply("brightness", pixels(), sign=1).double() - expected).abs().max()) <= 1


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


@pytest.mark.parametrize(
    ("operation", "source"),
    [  # where the pixel at (x, y) from the middle comes from; sin and cos of 21 degrees
        ("shear_x", [[1, 0.21], [0, 1]]),
        ("shear_y", [[1, 0], [0.21, 1]]),
        ("rotate", [[0.9336, -0.3584], [0.3584, 0.9336]]),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_shears_and_rotation_are_the_published_ones_and_fill_with_grey(
    operation: str, source: list[list[float]], sign: int
) -> None:
    middle, whole = 40, places(81, 81, step=1)
    moved = apply(operation, whole, sign)
    place_2P = whole[:2].flatten(1).float() - middle
    mixing = torch.tensor(source)
    mixing[[0, 1], [1, 0]] *= sign
    inside_P = moved[2].flatten() == 255
    error_2P = moved[:2].flatten(1).float() - middle - mixing @ place_2P
    assert error_2P[:, inside_P].abs().max() <= 0.7  # the nearest pixel is taken
    assert 0.8 < inside_P.float().mean() < 0.96
    assert bool((moved[:, moved[2] != 255] == 128).all())


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
        apply("solarize", pixels(), sign=1)
