"""What a random sample within strata says about all of them: a share with an interval that is honest for few answers.

Shapes: H strata.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pipeline.retrieval.uncertainty import LEVEL, Estimate

DRAWS = 20_000


def stratified_total(size_H: ArrayLike, asked_H: ArrayLike, yes_H: ArrayLike, seed: int = 1) -> Estimate:
    """How many members of the strata are a "yes", from `yes` of `asked` random members of each.

    Each stratum's share has Jeffreys' posterior, Beta(yes + 1/2, no + 1/2); the total is the sum of the shares times
    the sizes, its interval the middle 95 % of random draws. A stratum without an answer has a share that may be
    anything, and the interval says so.

    Args:
        size_H: members of each stratum.
        asked_H: randomly chosen members with an answer.
        yes_H: those among them whose answer is yes.
        seed: of the draws.
    """
    size, asked, yes = (np.asarray(part, np.float64) for part in (size_H, asked_H, yes_H))
    alpha, beta = yes + 0.5, asked - yes + 0.5
    total = (np.random.default_rng(seed).beta(alpha, beta, (DRAWS, len(size))) * size).sum(axis=1)
    low, high = np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float((alpha / (alpha + beta) * size).sum()), float(low), float(high))


def expected_total(probability_P: np.ndarray, group_P: np.ndarray, groups: int) -> Estimate:
    """The expected number of matches among independent pairs with these probabilities, the sum, with an interval.

    The variance is that of the pairs (Σ p (1 - p)) plus that of the groups (pictures), as if other ones had been drawn.
    It is as right as the probabilities are.
    """
    total = float(probability_P.sum())
    sum_G = np.bincount(group_P, weights=probability_P, minlength=groups)
    variance = float((probability_P * (1 - probability_P)).sum()) + groups * float(sum_G.var())
    half = 1.96 * variance**0.5
    return Estimate(total, max(0.0, total - half), total + half)
