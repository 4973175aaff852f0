"""A run's recalls as a table for the terminal, together with published ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from pipeline.retrieval.published import WITHOUT_FNE, Published
from pipeline.retrieval.recall import recall_names, report_recalls

NUMBERS = ("i2t\nR@1", "\nR@5", "\nR@10", "t2i\nR@1", "\nR@5", "\nR@10", "\nrsum", "i2t\nmAP", "t2i\nmAP")
MARK = "†"
LABEL = 15  # characters


def recalls_table(
    metrics: Mapping[str, Any], intervals: Mapping[str, Any] | None, published: Sequence[Published]
) -> Group:
    """The test recalls of both sets of weights, their intervals, and the published recalls for this dataset.

    Args:
        metrics: of `read_metrics`.
        intervals: as in evaluation/intervals.json; None: not computed.
        published: rows for the same dataset and protocol; may be empty.
    """
    table = Table(title="Test split, percent", title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.show_edge = False  # ten columns then fit 80 characters
    table.add_column("", min_width=LABEL)
    for column in NUMBERS:
        table.add_column(column, justify="right", no_wrap=True)  # labels may wrap, numbers are never cut
    for name, label in (("test", "this run"), ("last", "its last epoch")):
        truth = metrics[name].get("truth", {})
        graded = [truth.get(side, {}).get("mAP@R") for side in ("i2t", "t2i")]
        table.add_row(label, *_numbers([*report_recalls(metrics[name]), metrics[name]["rsum"], *graded]))
        if name == "test" and intervals:
            truth = intervals.get("truth", {})
            graded = [truth.get(side, {}).get("mAP@R") for side in ("i2t", "t2i")]
            pairs = [*report_recalls(intervals), intervals.get("rsum"), *graded]
            table.add_row("95 % interval", *("" if pair is None else f"{pair[0]:.0f}–{pair[1]:.0f}" for pair in pairs))
    for row in published:
        noise = "noise ?" if row.noise is None else f"noise {row.noise:g}"
        figures = _numbers([*map(row.recalls.get, recall_names()), row.rsum])
        names = (*recall_names(), "rsum")
        marked = [f"{text}{MARK}" if name in row.wrong else text for name, text in zip(names, figures, strict=True)]
        table.add_row(f"{row.method}, {noise}", *marked, "", "")
    return Group(table, "", *_notes(metrics, published))


def _notes(metrics: Mapping[str, Any], published: Sequence[Published]) -> list[str]:
    notes = ["i2t: image to text, t2i: text to image; this run: the weights of its best validation"]
    if "truth" in metrics["test"]:
        notes.append("mAP: mAP@R against the truth that is known of this data set")
    if "judged" in metrics["test"]:
        sums = [f"{metrics[name]['judged']['rsum']:.1f}" for name in ("test", "last") if "judged" in metrics[name]]
        notes.append(f"judged rsum, where every known match is right: {', its last epoch '.join(sums)}")
    if published:
        sources = ", ".join(dict.fromkeys(row.source for row in published))
        notes.append(f"published ({published[0].protocol}): {sources}; {WITHOUT_FNE}")
    if any(row.wrong for row in published):
        notes.append(f"{MARK} a known error of the published evaluation (it repeats i2t R@10): do not compare")
    return notes


def _numbers(figures: Iterable[float | None]) -> list[str]:
    return ["–" if figure is None else f"{figure:.1f}" for figure in figures]
