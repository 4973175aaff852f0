"""The few results that the README shows, from the CSV files of docs/results: no number there is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.report.parameters import between_markers

if TYPE_CHECKING:
    import pandas

README = Path("README.md")
MARKER = "results"
HARDER = "2.8 times as many false negatives"  # a case of the study
SHOWN = (
    ("flickr8k", "", "Flickr8k, heads over frozen towers", "rsum"),
    ("flickr8k-noise", "noise 0.4", "the same, 40 % of the captions wrong", "rsum"),
    (
        "scenes",
        HARDER,
        f"generated scenes with {HARDER} as by default; every true caption counts as right",
        "judged/rsum",
    ),
)
"""Study, case, what the README calls them, and the metric. The first method of each is the baseline."""
METHODS = {
    "flickr8k": {
        "InfoNCE, batch": "InfoNCE",
        "InfoNCE, batch, anchor": "InfoNCE over the closed-form anchor",
        "triplet, FNE": "triplet, FNE",
    },
    "flickr8k-noise": {
        "InfoNCE": "InfoNCE",
        "NPC": "NPC",
        "weighted by trust": "InfoNCE, weighted by trust",
        "weighted by trust, anchor": "the same over the anchor",
    },
    "scenes": {
        "triplet, hardest": "triplet, hardest negatives",
        "triplet, FNE": "triplet, FNE as published",
        "InfoNCE, FNE, drop above 0.01": "InfoNCE, FNE with evidence (the default)",
        "InfoNCE, all": "InfoNCE",
        "InfoNCE, all, drop above 0.01": "InfoNCE with evidence",
    },
}


def at_a_glance(raw: Path, readme: str) -> str:
    """The README with its table made anew; studies that have no CSV file, and methods without a row, are left out."""
    import pandas

    from benchmarks.results import difference, markdown, mean

    rows = []
    for study, case, title, metric in SHOWN:
        if not (path := raw / f"{study}.csv").exists():
            continue
        runs = pandas.read_csv(path, keep_default_na=False, na_values=[""], dtype={"case": str})
        final = _final(runs, case)
        there = [method for method in METHODS[study] if method in set(final["method"])]
        for place, method in enumerate(there):
            against = difference(final, method, there[0], f"best/{metric}") if place else ""
            found = mean(final, method, f"best/{metric}")
            rows.append([title if place == 0 else "", METHODS[study][method], found, against])
    table = markdown(["data", "method", "rsum", "difference to the first, 95 % interval"], rows, texts=2)
    before, _, after = between_markers(readme, README, MARKER)
    return f"{before}\n{table}{after}"


def _final(runs: pandas.DataFrame, case: str) -> pandas.DataFrame:
    return runs[(runs["phase"] == "final") & (runs["case"].fillna("") == case)]
