"""Plots that a person looks at, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import atomic_path

if TYPE_CHECKING:
    import pandas

POSITIVE, NEGATIVE, POSTERIOR, CUT = "#1b7837", "#762a83", "#d95f02", "#555555"


def similarity_figure(path: Path, curves: pandas.DataFrame, threshold: float, title: str) -> None:
    """Both similarity distributions with the posterior, the sampling weight and the cut-down threshold over them.

    Args:
        path: the PNG.
        curves: one row a similarity: columns `similarity`, `matched`, `unmatched` (densities), `posterior`, `weight`.
        threshold: at and below which candidates are cut down.
        title: above the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    densities = figure.add_subplot()
    x = curves["similarity"]
    for column, colour, label in (
        ("matched", POSITIVE, "matched pairs"),
        ("unmatched", NEGATIVE, "nearest mismatches"),
    ):
        densities.fill_between(x, curves[column], color=colour, alpha=0.3, linewidth=0)
        densities.plot(x, curves[column], color=colour, linewidth=1.2, label=label)
    densities.set(xlabel="cosine similarity", ylabel="density", title=title, ylim=(0, None), xlim=(x.min(), x.max()))
    weights = densities.twinx()
    weights.plot(x, curves["posterior"], color=POSTERIOR, linewidth=2, label="false-negative posterior")
    weights.plot(x, curves["weight"], color=POSTERIOR, linewidth=1.2, linestyle=":", label="sampling weight")
    if x.min() <= threshold <= x.max():
        weights.axvline(threshold, color=CUT, linestyle="--", linewidth=1, label=f"cut-down at {threshold:.2f}")
    weights.set(ylabel="posterior, weight", ylim=(0, 1.05))
    lines = [axis.get_legend_handles_labels() for axis in (densities, weights)]
    densities.legend(
        lines[0][0] + lines[1][0],
        lines[0][1] + lines[1][1],
        loc="upper center",
        ncols=3,
        fontsize=8,
        frameon=False,
        bbox_to_anchor=(0.5, -0.14),
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
