"""Independent normals, one for each kind of evidence, for the posterior and for the mixture in `trust`.

NaN means no evidence for a row; it is left out of that row's sum and of its kind's mean and variance.

Shapes: K rows (pairs), F kinds of evidence.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

SMALLEST_VARIANCE = 1e-12  # keeps the log-ratio finite for constant evidence


class Normals(NamedTuple):
    """Mean and variance of each kind of evidence, float64; NaN for a kind that no row has."""

    mean_F: Tensor
    variance_F: Tensor

    def log_densities(self, evidence_KF: Tensor) -> Tensor:
        """`log N(e; μ, σ²)` of each value (K, F); NaN where there is none."""
        distance_KF = (evidence_KF - self.mean_F).square() / self.variance_F
        return -(distance_KF + self.variance_F.log() + math.log(2 * math.pi)) / 2


def fit_normals(evidence_KF: Tensor, weight_K: Tensor, smallest_variance: float = SMALLEST_VARIANCE) -> Normals:
    """The weighted mean and variance of each kind."""
    there_KF = ~evidence_KF.isnan()
    weight_KF = weight_K[:, None] * there_KF
    total_F = weight_KF.sum(0)
    evidence_KF = evidence_KF.where(there_KF, 0)
    mean_F = (weight_KF * evidence_KF).sum(0) / total_F
    variance_F = (weight_KF * (evidence_KF - mean_F).square()).sum(0) / total_F
    return Normals(mean_F, variance_F.clamp(min=smallest_variance))
