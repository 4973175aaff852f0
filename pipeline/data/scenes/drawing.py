"""Draw generated pictures: shapes in cells of a 3×3 grid, on a plain background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Point = tuple[float, float]

GRID = 3
COLOURS = {  # the first `data.scenes.colours` are used, so adjacent ones differ strongly
    "red": (218, 32, 38),
    "blue": (36, 84, 226),
    "yellow": (250, 222, 36),
    "green": (24, 150, 60),
    "purple": (134, 44, 176),
    "orange": (246, 134, 22),
    "pink": (250, 150, 196),
    "turquoise": (44, 210, 204),
}
BACKGROUNDS = {"white": (236, 236, 236), "grey": (138, 138, 138), "black": (24, 24, 24)}
RADIUS = {"small": 0.23, "large": 0.42}  # in cells; also with jitter, a large shape stays inside its cell
PLACE_JITTER = 0.07  # cells, to either side
SHADE_JITTER = 16  # levels of 255, to either side
_OVERSAMPLING = 4


def _regular(corners: int, radii: Sequence[float], turn: float = 0.0) -> tuple[Point, ...]:
    """Corners around the centre at cycling radii, the first one at the top (y points down)."""
    angles = [math.tau * (corner + turn) / corners for corner in range(corners)]
    return tuple(
        (radii[corner % len(radii)] * math.sin(angle), -radii[corner % len(radii)] * math.cos(angle))
        for corner, angle in enumerate(angles)
    )


def _heart() -> tuple[Point, ...]:
    """The usual parametric heart, scaled to the unit circle."""
    angles = [math.tau * step / 48 for step in range(48)]
    return tuple(
        (
            math.sin(angle) ** 3,
            -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 16
            - 0.1,
        )
        for angle in angles
    )


_ARM = 0.32
KINDS: dict[str, tuple[Point, ...]] = {  # outlines; large and small are measured by the unit circle around them
    "circle": _regular(64, (0.95,)),
    "square": _regular(4, (1.18,), turn=0.5),
    "triangle": tuple((x, y + 0.2) for x, y in _regular(3, (1.15,))),
    "star": _regular(10, (1.02, 0.43)),
    "cross": (
        *((-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM)),
        *((_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM)),
    ),
    "heart": _heart(),
}


@dataclass(frozen=True)
class Shape:
    """One shape: captions mention its kind, colour, size, `row` and `column` (0 to 2 from the top left).

    The other fields only make pictures different: `dx` and `dy` move it by fractions of a cell, `shade` is added to
    every channel of its colour (levels of 255).
    """

    kind: str
    colour: str
    size: str
    row: int
    column: int
    dx: float = 0.0
    dy: float = 0.0
    shade: int = 0


def draw(shapes: Sequence[Shape], background: str, shade: int, size: int) -> Image.Image:
    """Draw shapes on a background as an RGB picture of `size` × `size` pixels.

    Drawn four times as large and averaged, which gives smooth edges and is the same on every machine.
    """
    from PIL import Image, ImageDraw

    side = size * _OVERSAMPLING
    cell = side / GRID
    picture = Image.new("RGB", (side, side), _shaded(BACKGROUNDS[background], shade))
    canvas = ImageDraw.Draw(picture)
    for shape in shapes:
        centre_x = (shape.column + 0.5 + shape.dx) * cell
        centre_y = (shape.row + 0.5 + shape.dy) * cell
        radius = RADIUS[shape.size] * cell
        outline = [(round(centre_x + radius * x), round(centre_y + radius * y)) for x, y in KINDS[shape.kind]]
        canvas.polygon(outline, fill=_shaded(COLOURS[shape.colour], shape.shade))
    return picture.reduce(_OVERSAMPLING)


def _shaded(colour: tuple[int, int, int], shade: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, channel + shade)) for channel in colour)
    return red, green, blue
