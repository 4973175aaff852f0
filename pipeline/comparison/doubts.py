"""What a reader should know before comparing rows: other seeds, other test splits, and rows of the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from pipeline.comparison.rows import METRICS, Group, Row, test_splits


def doubts(rows: Sequence[Row]) -> list[str]:
    """A sentence for each doubt; none where all rows can be compared."""
    said = []
    if len({frozenset(row.group.runs) for row in rows}) > 1:
        said.append(
            "Warning: the rows have different seeds, so their means are not of the same trainings; a difference from a "
            "--baseline uses the common seeds alone."
        )
    if len(test_splits(run for row in rows for run in row.group.runs.values())) > 1:
        said.append("Warning: the rows were judged on different test splits; differences are not of the models alone.")
    for one, other in combinations(rows, 2):
        if _same_weights(one.group, other.group):
            said.append(
                f"Same test result for every common seed: {_named(one)} and {_named(other)}. Perhaps both kept the "
                "weights of an early validation, before they differed."
            )
    return said


def _same_weights(one: Group, other: Group) -> bool:
    seeds = one.runs.keys() & other.runs.keys()
    pairs = [(_recalls(one.runs[seed]), _recalls(other.runs[seed])) for seed in seeds]
    return bool(pairs) and all(mine and mine == theirs for mine, theirs in pairs)


def _recalls(run: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in run["metrics"].items() if name in METRICS}


def _named(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.varying.items())
