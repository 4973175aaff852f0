"""A run's metrics as Markdown, for its description in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.files import read_record
from pipeline.paths import LAST_METRICS, METRICS
from pipeline.retrieval.recall import report_recalls

HEADER = ("i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum")
WEIGHTS = {"test": "best validation", "last": "last epoch"}
GAP = "&emsp;"  # MLflow shows tables without space between columns, and cuts a plain space off


def read_metrics() -> dict[str, Any]:
    """What stage evaluate wrote: `test` and, where there is noise or evidence, more; and the last epoch's as `last`.

    `last` has a file of its own, so that DVC's tables show one set of metrics.

    Raises:
        InputError: when a file is missing or damaged.
    """
    return {**read_record(METRICS, "evaluate"), "last": read_record(LAST_METRICS, "evaluate")}


def recall_markdown(metrics: Mapping[str, Any]) -> str:
    """Recalls in both directions in percent, and mAP@R if every match is known: one line per set of weights."""
    from pipeline.comparison.table import markdown

    exact = all("truth" in metrics[name] for name in WEIGHTS)
    table = [["test split, weights of the", *HEADER, *(["i2t mAP@R", "t2i mAP@R"] if exact else [])]]
    for name, label in WEIGHTS.items():
        report = metrics[name]
        values = [*report_recalls(report), report["rsum"]]
        if exact:
            # crowd judgments of a small split can rank one direction alone
            values += [report["truth"].get(side, {}).get("mAP@R") for side in ("i2t", "t2i")]
        table.append([label, *("–" if value is None else f"{value:.1f}" for value in values)])
    return markdown([[first, *(GAP + cell for cell in rest)] for first, *rest in table], parameters=1)
