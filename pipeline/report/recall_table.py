"""A run's figures as the Markdown that stands above it in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.comparison.table import markdown

WEIGHTS = {"test": "best validation", "last": "last epoch"}


def recall_markdown(metrics: Mapping[str, Any]) -> str:
    """Recalls both ways in percent, and mAP@R where every match is known: a line a set of weights."""
    exact = all("truth" in metrics[name] for name in WEIGHTS)
    header = ["test split, weights of the", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum"]
    table = [[*header, *(["i2t mAP@R", "t2i mAP@R"] if exact else [])]]
    for name, label in WEIGHTS.items():
        report = metrics[name]
        figures = [report[side][cutoff] for side in ("i2t", "t2i") for cutoff in ("R1", "R5", "R10")]
        figures.append(report["rsum"])
        if exact:
            figures += [report["truth"][side]["mAP@R"] for side in ("i2t", "t2i")]
        table.append([label, *(f"{figure:.1f}" for figure in figures)])
    return markdown(table, parameters=1)
