"""What a random sample within strata says about all of them: a share with an interval that is honest for few answers.

Shapes: H strata.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pipeline.retrieval.uncertainty import LEVEL, Estimate

DRAWS = 5_000


def stratified_total(size_H: ArrayLike, asked_H: ArrayLike, yes_H: ArrayLike, seed: int = 1) -> Estimate:
    """How many members of the strata are a "yes", from `yes` of `asked` random members of each.

    The members without an answer are drawn: a stratum's share from Beta(yes, no + 1) for the lower bound and from
    Beta(yes + 1, no) for the upper one, as in Clopper and Pearson's interval. One prior for both would add part of a
    "yes" in each stratum, and the interval of many strata would leave out 0 and all. It is wide for few answers; a
    stratum without one may be anything. The value takes each stratum's share of "yes", 1/2 without an answer.

    Args:
        size_H: members of each stratum.
        asked_H: randomly chosen members with an answer.
        yes_H: those among them whose answer is yes.
        seed: of the draws.
    """
    size, asked, yes = (np.asarray(part, np.int64) for part in (size_H, asked_H, yes_H))
    no, rest, draw = asked - yes, size - asked, np.random.default_rng(seed)

    def total(alpha: np.ndarray, beta: np.ndarray, sure: np.ndarray, share: float) -> np.ndarray:
        """Draws of the number of "yes", where the share of some strata is sure."""
        drawn = draw.beta(alpha.clip(1), beta.clip(1), (DRAWS, len(size)))
        return (yes + draw.binomial(rest, np.where(sure, share, drawn))).sum(axis=1)

    low = np.quantile(total(yes, no + 1, yes == 0, 0.0), (1 - LEVEL) / 2)
    high = np.quantile(total(yes + 1, no, no == 0, 1.0), (1 + LEVEL) / 2)
    value = size * np.where(asked == 0, 0.5, yes / asked.clip(1))
    return Estimate(float(value.sum()), float(low), float(high))


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
