"""Pictures of generated scenes: what captions speak of can be seen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops

from pipeline.data.scenes.drawing import BACKGROUNDS, COLOURS, KINDS, PLACE_JITTER, RADIUS, SHADE_JITTER, Shape, draw


def box_of(shape: Shape, size: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is drawn."""
    box = ImageChops.difference(draw([shape], "white", 0, size), draw([], "white", 0, size)).getbbox()
    assert box is not None
    return box


def differences(first: Image.Image, second: Image.Image) -> NDArray[np.int16]:
    """Absolute differences of two pictures, (height, width, 3)."""
    return np.abs(np.asarray(first, dtype=np.int16) - np.asarray(second, dtype=np.int16))


@pytest.mark.parametrize("size", [16, 64, 65])
def test_a_picture_is_rgb_and_as_large_as_asked_for(size: int) -> None:
    image = draw([Shape("star", "red", "large", 1, 1)], "white", 0, size)
    assert (image.size, image.mode) == ((size, size), "RGB")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", RADIUS)
def test_a_shape_stays_inside_of_its_own_cell_however_it_is_moved(kind: str, size: str) -> None:
    for dx in (-PLACE_JITTER, PLACE_JITTER):
        for dy in (-PLACE_JITTER, PLACE_JITTER):
            left, top, right, bottom = box_of(Shape(kind, "red", size, 1, 1, dx, dy), 192)
            assert min(left, top) >= 64
            assert max(right, bottom) <= 128


@pytest.mark.parametrize("kind", KINDS)
def test_row_and_column_count_from_the_top_left(kind: str) -> None:
    _, top, right, _ = box_of(Shape(kind, "red", "small", 2, 0), 192)
    assert right <= 64
    assert top >= 128


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_shape_has_its_colour_on_every_background(kind: str, background: str) -> None:
    for colour, levels in COLOURS.items():
        image = draw([Shape(kind, colour, "small", 1, 1)], background, 0, 63)
        assert image.getpixel((31, 31)) == levels
        assert image.getpixel((2, 2)) == BACKGROUNDS[background]


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_shape_is_more_than_half_as_wide_again_as_a_small_one(kind: str) -> None:
    widths = {}
    for size in RADIUS:
        left, _, right, _ = box_of(Shape(kind, "red", size, 1, 1), 64)
        widths[size] = right - left
    assert widths["small"] >= 8
    assert widths["large"] > 1.5 * widths["small"]


def test_small_shapes_of_different_kinds_do_not_look_alike() -> None:
    drawn = {kind: draw([Shape(kind, "red", "small", 1, 1)], "white", 0, 64) for kind in KINDS}
    for first, second in itertools.combinations(KINDS, 2):
        different_pixels = (differences(drawn[first], drawn[second]).max(axis=2) > 40).sum()
        assert different_pixels >= 15, f"{first} and {second}"


def test_no_jitter_of_shade_makes_one_colour_another() -> None:
    palette = [*COLOURS.values(), *BACKGROUNDS.values()]
    for index, first in enumerate(palette):
        for second in palette[:index]:
            assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 2 * SHADE_JITTER


def test_jitter_shows() -> None:
    shape = Shape("circle", "blue", "large", 1, 1)
    plain = draw([shape], "grey", 0, 64)
    assert differences(plain, draw([shape], "grey", 5, 64)).max() == 5
    assert differences(plain, draw([replace(shape, shade=-5)], "grey", 0, 64)).max() == 5
    assert differences(plain, draw([replace(shape, dx=0.05)], "grey", 0, 64)).max() > 20
