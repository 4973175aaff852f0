"""Charts made with matplotlib: a PNG for DVC and MLflow, SVG for the report's page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import atomic_path

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

POSITIVE, NEGATIVE, POSTERIOR, CUT, LINE = "#1b7837", "#762a83", "#c24f00", "#555555", "#0b57a4"
SVG = {
    "svg.fonttype": "none",  # text stays text: small, and sharp at any size
    "svg.hashsalt": "report",  # equal charts are equal bytes
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # the font of the layout, then one of the same width
}


def similarity_figure(path: Path, curves: pandas.DataFrame, threshold: float, title: str) -> None:
    """Write `draw_similarity`'s chart as a PNG, with a title above it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    draw_similarity(figure, curves, threshold)
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_similarity(figure: Figure, curves: pandas.DataFrame, threshold: float) -> None:
    """Both similarity distributions with the posterior, the sampling weight and the cut-down threshold over them.

    Args:
        figure: an empty one; the legend has three columns if it is wide, else two.
        curves: one row per similarity: columns `similarity`, `matched`, `unmatched` (densities), `posterior`, `weight`.
        threshold: candidates at or below it are cut down.
    """
    densities = figure.add_subplot()
    x = curves["similarity"]
    for column, colour, label in (
        ("matched", POSITIVE, "matched pairs"),
        ("unmatched", NEGATIVE, "nearest mismatches"),
    ):
        densities.fill_between(x, curves[column], color=colour, alpha=0.25, linewidth=0)
        densities.plot(x, curves[column], color=colour, linewidth=1.2, label=label)
    densities.set(xlabel="cosine similarity", ylabel="density", ylim=(0, None), xlim=(x.min(), x.max()))
    weights = densities.twinx()
    weights.plot(x, curves["posterior"], color=POSTERIOR, linewidth=2, label="false-negative posterior")
    weights.plot(x, curves["weight"], color=POSTERIOR, linewidth=1.4, linestyle=":", label="sampling weight")
    if x.min() <= threshold <= x.max():
        weights.axvline(threshold, color=CUT, linestyle="--", linewidth=1, label=f"cut-down at {threshold:.2f}")
    weights.set(ylabel="posterior, weight", ylim=(0, 1.05))
    columns = 3 if figure.get_figwidth() > 6 else 2
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small", frameon=False)


def svg_uri(figure: Figure) -> str:
    """The figure as a data: URI for an `<img>`, whose styles the page's content security policy does not block."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context(SVG):  # type: ignore[arg-type]
        figure.savefig(content, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
