"""The probability that a candidate is a false negative, given its similarity (Bayes' rule)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

SMALLEST_VARIANCE = 1e-12  # keeps the log-ratio finite for a population of equal similarities


class Normal(Protocol):
    """Mean and variance of a population of similarities, as 0-dimensional tensors or numbers."""

    @property
    def mean(self) -> Tensor | float:
        """μ."""

    @property
    def variance(self) -> Tensor | float:
        """σ², unbiased."""


def false_negative_posterior(similarity: Tensor, positive: Normal, negative: Normal, prior: float) -> Tensor:
    """Probability that a candidate at this similarity matches its anchor.

    `p(s) = N(s; μ+, σ+²) / (N(s; μ+, σ+²) + (K - 1) N(s; μ-, σ-²))` (Li et al. 2023), computed as the sigmoid of a
    log-ratio: in the tails both densities underflow, and their ratio would be 0/0.

    Args:
        similarity: cosine similarities of any shape.
        positive: the similarities of matched pairs.
        negative: the similarities of their hardest mismatches.
        prior: K; the prior probability of a false negative is 1/K.

    Returns:
        The same shape, in [0, 1], never NaN for finite similarities; at least float32.
    """
    # 1 / σ² of a narrow population overflows float16
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    positive_variance, negative_variance = (
        torch.as_tensor(population.variance, dtype=torch.float64).clamp(min=SMALLEST_VARIANCE)
        for population in (positive, negative)
    )
    # few operations on `similarity`: each is a pass over all candidates
    constant = (negative_variance / positive_variance).log() / 2 - math.log(prior - 1)
    above = (similarity - negative.mean).square() * (1 / (2 * negative_variance))
    below = (similarity - positive.mean).square() * (1 / (2 * positive_variance))
    return torch.sigmoid(above - below + constant)
