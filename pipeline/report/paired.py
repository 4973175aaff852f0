"""What two runs on the same queries and seeds differ by, and how sure that is.

Shapes: S seeds, Q queries of one direction, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
CHUNK = 1 << 22  # drawn queries held at a time

DirectionRanks = Mapping[str, NDArray[np.int64]]
"""Of one run: "i2t" and "t2i", each query's rank (Q,), from 0."""


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


def over_queries(
    ours_S: Sequence[DirectionRanks],
    theirs_S: Sequence[DirectionRanks],
    cutoffs: Sequence[tuple[str, int]],
    *,
    resamples: int = 2000,
    seed: int = 1,
) -> Difference | None:
    """Difference of a sum of recalls, in percent, with the percentile interval of the paired bootstrap.

    Each query's hits are averaged over the seeds; queries are drawn with replacement, those of the two directions
    apart, and both sides are judged on the same draw. So the interval says what other test queries would change, not
    what other seeds would.

    Args:
        ours_S: ranks of each seed's run.
        theirs_S: ranks of the run to compare with, seed by seed.
        cutoffs: the recalls that are summed: direction and K; all six for rsum.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        None where the runs were not judged on the same number of queries.
    """
    value, sample_R = 0.0, np.zeros(resamples)
    generator = np.random.default_rng(seed)
    for direction in dict.fromkeys(direction for direction, _ in cutoffs):
        depths = [depth for side, depth in cutoffs if side == direction]
        runs = [(ours[direction], theirs[direction]) for ours, theirs in zip(ours_S, theirs_S, strict=True)]
        queries = len(runs[0][0])
        if any(len(ranks_Q) != queries for pair in runs for ranks_Q in pair):
            return None
        difference_Q = np.zeros(queries)
        for ours_Q, theirs_Q in runs:
            for depth in depths:
                difference_Q += (ours_Q < depth).astype(float) - (theirs_Q < depth)
        difference_Q *= 100 / len(runs)
        value += float(difference_Q.mean())
        rows = max(1, CHUNK // queries)
        for start in range(0, resamples, rows):
            drawn = generator.integers(queries, size=(min(rows, resamples - start), queries))
            sample_R[start : start + rows] += difference_Q[drawn].mean(axis=1)
    low, high = np.quantile(sample_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(value, float(low), float(high), "queries")
