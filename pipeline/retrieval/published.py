"""Recalls published by papers and repositories, to compare with a run's own.

`published.csv` names the source of every row. The FNE paper's own table was not available: it is missing, not zero.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.retrieval.recall import recall_names

TABLE = Path(__file__).with_name("published.csv")
KNOWN_ERROR = "a known error"  # how a row's remark begins to say that its t2i_R10 is not one
WITHOUT_FNE = "FNE paper: unavailable"


@dataclass(frozen=True)
class Published:
    """One row of a published table: recalls in percent, by the names of `recall_names`."""

    method: str
    protocol: str
    noise: float | None
    """Share of shuffled training captions; None: unknown."""
    recalls: Mapping[str, float]
    """Empty where only their sum was published, or seen."""
    source: str
    remark: str
    only_sum: float | None = None

    @property
    def wrong(self) -> tuple[str, ...]:
        """The metrics whose published value is known to be wrong and must not be compared."""
        return ("t2i_R10",) if KNOWN_ERROR in self.remark else ()

    @property
    def rsum(self) -> float | None:
        """The sum of the six recalls; None if one of them is wrong."""
        if self.only_sum is not None:
            return self.only_sum
        return None if self.wrong else sum(self.recalls.values())


def published(data_set: str, folds: int = 1) -> list[Published]:
    """The published rows for a dataset's protocol, in the order of the table; empty if there are none.

    MS-COCO is published as 1K (the mean of five folds) and as 5K; `folds` chooses.
    """
    protocols = {"mscoco": {1: "5K", 5: "1K (mean of 5 folds)"}}.get(data_set, {1: "1K"})
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [
            Published(
                row["method"],
                row["protocol"],
                float(row["noise"]) if row["noise"] else None,
                {name: float(row[name]) for name in recall_names() if row[name]},
                row["source"],
                row["remark"],
                float(row["rsum"]) if row["rsum"] else None,
            )
            for row in csv.DictReader(lines)
            if row["dataset"] == data_set and row["protocol"] == protocols.get(folds)
        ]
