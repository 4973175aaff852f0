"""Differences of runs on the same queries and seeds, with intervals.

Shapes: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.retrieval.recall import DIRECTIONS
from pipeline.retrieval.uncertainty import LEVEL, paired_differences

if TYPE_CHECKING:
    import pandas

QUERY = ("direction", "query", "image", "fold", "rank")
REPLICATES = 2000
SEED = 1


class Difference(NamedTuple):
    """A difference of two means with its 95 % interval; bounds are NaN without an interval."""

    value: float
    low: float
    high: float
    method: str
    """"queries": paired bootstrap over the queries; "seeds": t-interval over the seeds; "none": one seed only."""
    narrower: tuple[float, float] | None = None
    """The narrower interval, by the other method, if there are two."""

    @property
    def leaves_zero(self) -> bool:
        """Whether the interval (the wider of two) does not contain 0."""
        return self.low > 0 or self.high < 0


def wider(queries: Difference, seeds: Difference) -> Difference:
    """The wider interval; the narrower one is kept as the last field.

    An interval over queries is valid only for these seeds, one over seeds only for these queries: "A is better than B"
    needs both.
    """
    if seeds.method == "none":
        return queries
    first, other = (queries, seeds) if queries.high - queries.low >= seeds.high - seeds.low else (seeds, queries)
    return Difference(queries.value, first.low, first.high, first.method, (other.low, other.high))


def over_seeds(ours_S: Sequence[float], theirs_S: Sequence[float]) -> Difference:
    """Mean of the pairs' differences, with Student's t-interval over the seeds."""
    difference_S = np.subtract(ours_S, theirs_S)
    mean = float(difference_S.mean())
    if len(difference_S) < 2:
        return Difference(mean, math.nan, math.nan, "none")
    from scipy.stats import t

    half = float(
        t.ppf((1 + LEVEL) / 2, len(difference_S) - 1) * difference_S.std(ddof=1) / math.sqrt(len(difference_S))
    )
    return Difference(mean, mean - half, mean + half, "seeds")


def read_queries(path: Path, label: str) -> pandas.DataFrame:
    """The table of queries that an evaluation stored with its run.

    Raises:
        InputError: naming `label`, for a file that is damaged or something else (a shared server may hold any file).
    """
    import pandas

    try:
        table = pandas.read_parquet(path)
    except Exception as error:  # Arrow's reader raises many types on a damaged file
        raise InputError(f"{label}: not readable as parquet: {error}") from None
    for name in ("query", "image", "fold", "rank"):
        if name not in table or table[name].dtype.kind not in "iu":
            raise InputError(f"{label}: no column {name!r} of whole numbers")
    if "direction" not in table or not table["direction"].isin(DIRECTIONS).all():
        raise InputError(f"{label}: no column 'direction' of {' and '.join(DIRECTIONS)}")
    for name in table.columns.difference(list(QUERY)):
        if table[name].dtype.kind not in "fi":
            raise InputError(f"{label}: column {str(name)[:60]!r} holds {table[name].dtype}, expected numbers")
    return table


def over_queries(ours_S: Sequence[pandas.DataFrame], theirs_S: Sequence[pandas.DataFrame]) -> dict[str, Difference]:
    """Every metric's difference, by its MLflow name, with the interval of the paired bootstrap over the queries.

    Args:
        ours_S: each seed's table of queries, in the format of `pipeline.retrieval.uncertainty`.
        theirs_S: those to compare with.

    Returns:
        Empty if the runs were not evaluated on the same queries.
    """
    try:
        found = paired_differences(ours_S, theirs_S, REPLICATES, SEED)
    except ValueError:
        return {}
    return {
        f"test/{name.replace('@', '_at_')}": Difference(apart.value, apart.low, apart.high, "queries")
        for name, apart in found.items()
    }
