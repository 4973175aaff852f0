"""Line charts as plain SVG geometry: no scripts, no style attributes, so a strict content policy lets them through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 48  # margins, in the drawing's units
RIGHT_WITH_AXIS = 66
TICK_GAP = 80  # units between two places on the x axis, about
FEWEST_TICKS = 4


@dataclass(frozen=True)
class Line:
    """One curve; `look` is its CSS class. A point that is not finite is left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: str
    filled: bool = False
    right: bool = False
    """Whether it is read on the right axis, which runs from 0 to 1."""


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in drawing units, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A line's path in drawing units."""

    label: str
    look: str
    path: str
    area: str | None


@dataclass(frozen=True)
class Chart:
    """All that the template draws."""

    key: str
    title: str
    description: str
    x_label: str
    y_label: str
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    right_label: str | None = None
    right_ticks: list[Tick] = field(default_factory=list)
    marker: Tick | None = None


def line_chart(
    key: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (360, 220),
    from_zero: bool = False,
    right_label: str | None = None,
    marker: tuple[float, str] | None = None,
) -> Chart | None:
    """Lay out curves over common axes; None where no curve has a point.

    Args:
        key: the element's id in the page.
        title: the chart's name.
        description: what it shows, in words, for those who do not see it.
        lines: the curves.
        x_label: below.
        y_label: beside the left axis.
        size: width and height in drawing units.
        from_zero: whether the left axis begins at 0.
        right_label: beside a right axis from 0 to 1, for lines that say `right`.
        marker: a vertical line: where, and what is written beside it; left out where the curves do not reach.
    """
    points = {index: _points(line) for index, line in enumerate(lines)}
    drawn = [(lines[index], pairs) for index, pairs in points.items() if pairs]
    if not drawn:
        return None
    width, height = size
    left, right = LEFT, width - (RIGHT_WITH_AXIS if right_label else RIGHT)
    top, bottom = TOP, height - BOTTOM
    xs = [x for _, pairs in drawn for x, _ in pairs]
    ys = [y for line, pairs in drawn if not line.right for _, y in pairs] or [0.0, 1.0]
    x_low, x_high = _widened(min(xs), max(xs))
    y_low, y_high = _widened(0.0 if from_zero else min(ys), max(ys))
    y_values = _nice(y_low, y_high)
    y_low, y_high = min(y_low, y_values[0]), max(y_high, y_values[-1])

    def across(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def up(y: float, low: float, high: float) -> float:
        return bottom - (y - low) / (high - low) * (bottom - top)

    curves = []
    for line, pairs in drawn:
        low, high = (0.0, 1.05) if line.right else (y_low, y_high)
        path = "M" + "L".join(f"{across(x):.1f},{up(y, low, high):.1f}" for x, y in pairs)
        area = f"{path}L{across(pairs[-1][0]):.1f},{bottom}L{across(pairs[0][0]):.1f},{bottom}Z"
        curves.append(Curve(line.label, line.look, path, area if line.filled else None))
    return Chart(
        key,
        title,
        description,
        x_label,
        y_label,
        width,
        height,
        left,
        right,
        top,
        bottom,
        [Tick(across(x), _number(x)) for x in _nice(x_low, x_high, (right - left) / TICK_GAP) if x_low <= x <= x_high],
        [Tick(up(y, y_low, y_high), _number(y)) for y in y_values if y_low <= y <= y_high],
        curves,
        right_label,
        [Tick(up(y, 0, 1.05), _number(y)) for y in (0, 0.25, 0.5, 0.75, 1)] if right_label else [],
        Tick(across(marker[0]), marker[1]) if marker and x_low <= marker[0] <= x_high else None,
    )


def _points(line: Line) -> list[tuple[float, float]]:
    pairs = zip((float(x) for x in line.x), (float(y) for y in line.y), strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _nice(low: float, high: float, count: float = FEWEST_TICKS) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at most `low` to at least `high`."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}" if value else "0"
