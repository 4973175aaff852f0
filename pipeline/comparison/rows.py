"""Group runs that differ only in the seed (same data, code and parameters), and compare groups with a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.comparison.conditions import Condition, as_number, same_value
from pipeline.comparison.paired import Difference, over_queries, over_seeds, wider
from pipeline.errors import InputError
from pipeline.retrieval.recall import recall_names
from pipeline.sections import NO_RESULT

if TYPE_CHECKING:
    import pandas

SEED = "seed"

DATA, CODE = "data.digest", "code.digest"
"""Tags of a run: digests of its training's data and of the code."""
DIGITS = 12  # of a digest, as shown

METRICS = ("test/rsum", *(f"test/{name}" for name in recall_names("/")))

LOWER_IS_BETTER = ("loss", "median_rank", "ece")
"""The last part of such a metric's name."""

QueriesOf = Callable[[str], "pandas.DataFrame | None"]
"""A run's table of test queries by its id; None if it has none."""


@dataclass(frozen=True)
class Group:
    """Runs equal in data, code and every parameter except the seed."""

    params: Mapping[str, str]
    origin: Mapping[str, str]
    """Digests of data and code; "–" if a run of an older version lacks the tag."""
    runs: Mapping[str, Mapping[str, Any]]
    """By seed, as from `finished_runs`."""

    def value(self, name: str) -> str:
        """The value of a parameter or a digest; "–" if missing."""
        return self.params.get(name, self.origin.get(name, "–"))

    def values(self, metric: str) -> dict[str, float]:
        """The metric by seed, for the runs that have it."""
        return {seed: run["metrics"][metric] for seed, run in self.runs.items() if metric in run["metrics"]}

    def mean(self, metric: str) -> float:
        """Mean over the seeds; NaN if no run has the metric."""
        values = self.values(metric).values()
        return statistics.fmean(values) if values else math.nan

    def deviation(self, metric: str) -> float:
        """Standard deviation (n - 1) over the seeds; NaN for fewer than two."""
        values = self.values(metric).values()
        return statistics.stdev(values) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Row:
    """A group, the values of its varying parameters, and its difference from the baseline by metric."""

    group: Group
    varying: Mapping[str, str]
    differences: Mapping[str, Difference]
    """Empty without a baseline, and for the baseline itself."""
    is_baseline: bool


def grouped(runs: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Groups in the order of their parameters; of equal runs (seed included), the newest.

    Args:
        runs: newest first, as from `finished_runs`.
    """
    found: dict[tuple[tuple[str, str], ...], Group] = {}
    for run in runs:
        params = {
            name: _canonical(value)
            for name, value in sorted(run["params"].items())
            if name != SEED and not name.startswith(NO_RESULT)
        }
        origin = {tag: run["tags"].get(tag, "–")[:DIGITS] for tag in (DATA, CODE)}
        group = found.setdefault((*params.items(), *origin.items()), Group(params, origin, {}))
        group.runs.setdefault(run["params"].get(SEED, "–"), run)  # type: ignore[attr-defined]
    groups = list(found.values())
    names = varying_names(groups)
    return sorted(groups, key=lambda group: [_order(group.value(name)) for name in names])


def varying_names(groups: Sequence[Group]) -> list[str]:
    """What the groups differ in: parameters in alphabetical order (a missing one also differs), then digests.

    Different parameters make different data, so the data's digest is named only if they do not explain it.
    """
    names = sorted({name for group in groups for name in group.params})
    varying = [name for name in names if len({group.params.get(name) for group in groups}) > 1]
    data_of: dict[tuple[tuple[str, str], ...], set[str]] = {}
    for group in groups:
        data_of.setdefault(tuple(group.params.items()), set()).add(group.origin[DATA])
    if any(len(data) > 1 for data in data_of.values()):
        varying.append(DATA)
    if len({group.origin[CODE] for group in groups}) > 1:
        varying.append(CODE)
    return varying


def compared(
    groups: Sequence[Group], baseline: Sequence[Condition], metrics: Sequence[str], queries_of: QueriesOf
) -> list[Row]:
    """One row per group.

    Args:
        groups: from `grouped`.
        baseline: the conditions that make a group the baseline; none: no differences. If several groups fulfil them, a
            row is compared with the one that equals it in every parameter not named in the conditions, if possible of
            the same data and code.
        metrics: their names in MLflow.
        queries_of: for the bootstrap over queries; without it the interval is over the seeds.

    Raises:
        InputError: when no group fulfils `baseline`, or none equals any row in the other parameters.
    """
    names = varying_names(groups)
    chosen = [group for group in groups if baseline and all(condition.holds(group.params) for condition in baseline)]
    if baseline and not chosen:
        what = " and ".join(f"{c.name}{c.relation}{','.join(c.values)}" for c in baseline)
        values = {c.name: sorted({group.params.get(c.name, "–") for group in groups}) for c in baseline}
        there = "; ".join(f"{name} is {', '.join(found)}" for name, found in values.items())
        raise InputError(f"--baseline {what}: no run like that among those picked; {there}")
    rows = []
    for group in groups:
        is_baseline = any(group is one for one in chosen)
        partner = None if is_baseline else _partner(group, chosen, {condition.name for condition in baseline}, names)
        differences = _differences(group, partner, metrics, queries_of) if partner else {}
        varying = {name: group.value(name) for name in names}
        rows.append(Row(group, varying, differences, is_baseline))
    if baseline and len(groups) > len(chosen) and not any(row.differences for row in rows):
        raise InputError(
            "--baseline: no run shares its other parameters and a seed with a baseline run; "
            f"the runs vary in {', '.join(names) or 'nothing'}"
        )
    return rows


def by_result(rows: Sequence[Row], metric: str) -> list[Row]:
    """The best mean first; rows without the metric last."""
    sign = 1 if metric.rpartition("/")[2] in LOWER_IS_BETTER else -1

    def place(row: Row) -> float:
        mean = row.group.mean(metric)
        return math.inf if math.isnan(mean) else sign * mean

    return sorted(rows, key=place)


def _partner(group: Group, chosen: Sequence[Group], named: set[str], names: Sequence[str]) -> Group | None:
    """The baseline for a group that is none itself; None if none equals it in the other parameters."""
    if len(chosen) == 1:
        return chosen[0]
    others = [name for name in names if name not in named and name not in (DATA, CODE)]
    fitting = [c for c in chosen if all(same_value(c.params.get(name), group.params.get(name)) for name in others)]
    return max(fitting, key=lambda c: sum(c.origin[tag] == group.origin[tag] for tag in (CODE, DATA)), default=None)


def _differences(group: Group, partner: Group, metrics: Sequence[str], queries_of: QueriesOf) -> dict[str, Difference]:
    """By metric, over the seeds of both; a metric without a common seed is left out."""
    seeds = [seed for seed in group.runs if seed in partner.runs]
    tables = [[queries_of(one.runs[seed]["run_id"]) for seed in seeds] for one in (group, partner)]
    whole = [[table for table in side if table is not None] for side in tables]
    complete = bool(seeds) and all(len(side) == len(seeds) for side in whole)
    # two splits of one size have the same row numbers, and other pictures
    same_queries = len(test_splits(one.runs[seed] for one in (group, partner) for seed in seeds)) <= 1
    sure = over_queries(*whole) if complete and same_queries else {}
    found = {}
    for metric in metrics:
        ours, theirs = group.values(metric), partner.values(metric)
        both = [seed for seed in ours if seed in theirs]
        if not both:
            continue
        found[metric] = over_seeds([ours[seed] for seed in both], [theirs[seed] for seed in both])
        if metric in sure and both == seeds:
            found[metric] = wider(sure[metric], found[metric])
    return found


def test_splits(runs: Iterable[Mapping[str, Any]]) -> set[str]:
    """The digests of the test splits that runs were judged on, as far as they logged one."""
    return {run["test"] for run in runs if run.get("test")}


def _canonical(value: str) -> str:
    """The same text for equal numbers, so that `1e-4` and `0.0001` are one group."""
    number = as_number(value)
    return value if number is None else f"{number:.12g}"


def _order(value: str) -> tuple[int, float, str]:
    number = as_number(value)
    return (0, number, "") if number is not None else (1, 0.0, value)
