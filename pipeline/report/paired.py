"""What two runs on the same queries and seeds differ by, and how sure that is.

Shapes: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.retrieval.uncertainty import paired_differences

if TYPE_CHECKING:
    import pandas

LEVEL = 0.95
REPLICATES = 2000
SEED = 1


class Difference(NamedTuple):
    """A difference of two means with its 95 % interval and how that was had; bounds are NaN where it has none."""

    value: float
    low: float
    high: float
    method: str
    """"queries": paired bootstrap over the queries; "seeds": t-interval over the seeds; "none": one seed alone."""


def over_seeds(ours_S: Sequence[float], theirs_S: Sequence[float]) -> Difference:
    """Mean difference, pair by pair, with Student's t-interval over the seeds."""
    difference_S = np.subtract(ours_S, theirs_S)
    mean = float(difference_S.mean())
    if len(difference_S) < 2:
        return Difference(mean, math.nan, math.nan, "none")
    from scipy.stats import t

    half = float(
        t.ppf((1 + LEVEL) / 2, len(difference_S) - 1) * difference_S.std(ddof=1) / math.sqrt(len(difference_S))
    )
    return Difference(mean, mean - half, mean + half, "seeds")


def over_queries(ours_S: Sequence[pandas.DataFrame], theirs_S: Sequence[pandas.DataFrame]) -> dict[str, Difference]:
    """Every figure's difference, by its MLflow name, with the interval of the paired bootstrap over the queries.

    Args:
        ours_S: each seed's table of queries, as `pipeline.retrieval.uncertainty` describes it.
        theirs_S: those to compare with.

    Returns:
        Empty where the runs were not judged on the same queries.
    """
    try:
        found = paired_differences(ours_S, theirs_S, REPLICATES, SEED)
    except ValueError:
        return {}
    return {
        f"test/{name.replace('@', '_at_')}": Difference(apart.value, apart.low, apart.high, "queries")
        for name, apart in found.items()
    }
