"""The plot of a comparison: a metric over the varied parameter, with error bars over the seeds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pipeline.comparison.conditions import as_number
from pipeline.comparison.rows import Row
from pipeline.comparison.table import title
from pipeline.errors import InputError
from pipeline.files import atomic_path

FORMATS = (".png", ".svg")
COLOURS = ("#1b7837", "#762a83", "#d95f02", "#2166ac", "#b2182b", "#555555")
MARKERS = "osD^vP"
WIDEST = 90  # characters per line of the legend


def axis_of(rows: Sequence[Row], asked: str | None = None) -> str:
    """The varied parameter for the x axis: the requested one, else the only numeric one, else the only one.

    Raises:
        InputError: when none varies, when several vary and none was requested, or when the requested one does not vary.
    """
    names = list(rows[0].varying)
    numeric = [name for name in names if all(as_number(row.varying[name]) is not None for row in rows)]
    if asked is not None:
        if asked not in names:
            raise InputError(f"--x {asked}: does not vary among these runs; these do: {', '.join(names) or 'none'}")
        return asked
    for candidates in (numeric, names):
        if len(candidates) == 1:
            return candidates[0]
    if not names:
        raise InputError("--plot: nothing varies among these runs but the seed: there is nothing to plot against")
    raise InputError(f"--plot: several parameters vary; name one to plot against by --x: {', '.join(names)}")


def comparison_figure(path: Path, rows: Sequence[Row], metric: str, axis: str) -> None:
    """Plot a line per combination of the other varied parameters: mean and standard deviation over the seeds.

    Args:
        path: a PNG or an SVG file.
        rows: from `compared`.
        metric: its name in MLflow.
        axis: the varied parameter on the x axis; values that are not numeric are spaced evenly.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    values = list(dict.fromkeys(row.varying[axis] for row in rows))
    numbers = [number for value in values if (number := as_number(value)) is not None]
    numeric = len(numbers) == len(values)
    place: dict[str, float] = dict(zip(values, numbers if numeric else range(len(values)), strict=True))
    lines: dict[str, list[Row]] = {}
    for row in rows:
        told = sorted(row.varying.items(), key=lambda item: item[1] == "–")  # present values first
        others = ", ".join(f"{name} {value}" for name, value in told if name != axis)
        lines.setdefault(others, []).append(row)
    # lines are moved a little to the side, so that no point hides another
    step = (max(place.values()) - min(place.values()) or 1) / 100
    for number, (label, members) in enumerate(lines.items()):
        aside = (number - (len(lines) - 1) / 2) * step
        deviations = [row.group.deviation(metric) for row in members]
        axes.errorbar(
            [place[row.varying[axis]] + aside for row in members],
            [row.group.mean(metric) for row in members],
            yerr=[0 if math.isnan(deviation) else deviation for deviation in deviations],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if numeric else "none",
            linewidth=1.2,
            markersize=5,
            capsize=3,
            label=label,
        )
    if not numeric or len(values) <= 8:
        axes.set_xticks([place[value] for value in values], values, parse_math=False)
    seeds = sorted({len(row.group.runs) for row in rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    # plain text: matplotlib would read dollar signs in names or values as formulas
    axes.set_xlabel(axis, parse_math=False)
    axes.set_ylabel(title(metric), parse_math=False)
    axes.set_title(f"Mean and standard deviation over {count} seed{'s' * (seeds != [1])}", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        columns = 1 if max(map(len, lines)) > WIDEST // 3 else min(3, len(lines))
        legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_text(textwrap.fill(text.get_text(), WIDEST, max_lines=2, placeholder=" …"))
            text.set_parse_math(False)
    # the same numbers make the same file
    with rc_context({"svg.hashsalt": "comparison"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
