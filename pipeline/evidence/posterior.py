"""The probability that an unpaired caption matches an image, from several kinds of evidence (Bayes' rule).

FNE's rule of two normals (`pipeline.sampling.posterior`), with several kinds of evidence and calibrated.

Shapes: K pairs, F kinds of evidence. NaN means no evidence for a pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.errors import InputError
from pipeline.evidence.normals import Normals, fit_normals

FEWEST = 2  # a kind of evidence with fewer values in a population is left out
FARTHEST_STD = 1e6  # evidence is clipped at this distance, so that its square stays finite
FEWEST_ABOVE = 0.01  # smallest share of the positives above a threshold of `estimated_prior`


@dataclass(frozen=True)
class Posterior:
    """Two populations of normals, the temperature of their log-ratio, and K (the prior probability is 1/K)."""

    positive: Normals
    negative: Normals
    temperature: float
    prior: float

    def log_ratio(self, evidence_KF: Tensor) -> Tensor:
        """The tempered log-likelihood ratio (K,), float64, finite; 0 for a pair without any evidence."""
        return self.temperature * _log_ratio(evidence_KF, self.positive, self.negative)

    def fast_log_ratio(self, evidence: Sequence[Tensor]) -> Tensor:
        """As `log_ratio`, in float32, of one tensor for each kind of evidence, all of one shape, which is returned."""
        total = torch.zeros_like(evidence[0])
        low_F, high_F = _rising(self.positive, self.negative)
        for kind, values in enumerate(evidence):
            square, linear, constant = 0.0, 0.0, 0.0
            for sign, side in ((self.temperature, self.positive), (-self.temperature, self.negative)):
                mean, variance = side.mean_F[kind].item(), side.variance_F[kind].item()
                square -= sign / (2 * variance)
                linear += sign * mean / variance
                constant -= sign * (mean * mean / variance + math.log(variance)) / 2
            bounded = values.clamp(low_F[kind].item(), high_F[kind].item())
            total += (bounded * square).add_(linear).mul_(bounded).add_(constant).nan_to_num_(0)
        return total

    def probability(self, evidence_KF: Tensor) -> Tensor:
        """`sigmoid(log ratio - log(K - 1))` (K,), float64, in [0, 1]; 1 / K for a pair without any evidence."""
        return torch.sigmoid(self.log_ratio(evidence_KF) - math.log(self.prior - 1))

    def as_numbers(self) -> dict[str, Any]:
        """Plain numbers, for JSON; None for a kind of evidence that is left out."""
        populations = {"positive": self.positive, "negative": self.negative}
        return {
            **{
                side: {
                    name: [None if math.isnan(value) else value for value in numbers.tolist()]
                    for name, numbers in (("mean", normals.mean_F), ("variance", normals.variance_F))
                }
                for side, normals in populations.items()
            },
            "temperature": self.temperature,
            "prior": self.prior,
        }

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Posterior:
        """The posterior of `as_numbers`."""
        positive, negative = (
            Normals(
                *(
                    torch.tensor([math.nan if v is None else v for v in numbers[side][name]], dtype=torch.float64)
                    for name in ("mean", "variance")
                )
            )
            for side in ("positive", "negative")
        )
        return cls(positive, negative, numbers["temperature"], numbers["prior"])


def fit_posterior(positive_KF: Tensor, negative_KF: Tensor, *, prior: float) -> Posterior:
    """Fit naive Bayes with normals, and one temperature on their log-ratio.

    Kinds of evidence are correlated, and naive Bayes counts their common part several times. The temperature, between 0
    and 1, corrects that: it is the logistic regression of match on the log-ratio, on the same pairs, without an
    intercept, with equal weight of both populations. A temperature above 1 would count evidence more than once. A kind
    that is not higher where pairs match is left out, if there is another.

    Args:
        positive_KF: evidence of pairs that match: captions against their own image's other captions.
        negative_KF: evidence of random unpaired pairs, any number; same kinds in the same order.
        prior: K, above 1; the prior probability of a match is 1/K, same as `sampler.prior`.

    Raises:
        InputError: when the prior is not above 1, or no kind of evidence has two values in both populations.
    """
    if not prior > 1:
        raise InputError(f"prior = {prior}: one pair in K matches beforehand, K above 1")
    positive_KF, negative_KF = positive_KF.double(), negative_KF.double()
    missing_F = torch.stack([(~part.isnan()).sum(0) < FEWEST for part in (positive_KF, negative_KF)]).any(0)
    if missing_F.all():
        raise InputError(
            f"posterior: {len(positive_KF)} matching and {len(negative_KF)} unpaired pairs; no kind of evidence has "
            f"{FEWEST} values in both"
        )
    lower_F = positive_KF.nanmean(0) <= negative_KF.nanmean(0)
    if not (missing_F | lower_F).all():
        missing_F |= lower_F  # agreement would count against a match
    positive, negative = (
        fit_normals(part.masked_fill(missing_F, torch.nan), part.new_ones(len(part)))
        for part in (positive_KF, negative_KF)
    )
    temperature = _temperature(_log_ratio(positive_KF, positive, negative), _log_ratio(negative_KF, positive, negative))
    return Posterior(positive, negative, temperature, float(prior))


def estimated_prior(positive_log_ratio_K: Tensor, unpaired_log_ratio_K: Tensor, pairs: int | None = None) -> float:
    """Estimate K = 1/π, where π is the share of unpaired pairs that match: the smallest ratio of tails.

    If a share π of the unpaired pairs matches and is distributed as the positives, then at any threshold the share of
    unpaired pairs above it is at least π times that of the positives. The smallest ratio over thresholds (the
    positives' percentiles) is therefore an upper bound of π under this assumption. An image's own captions agree more
    than true captions of other images, so in practice π is *larger* (on Flickr8k three to four times).

    Args:
        positive_log_ratio_K: `Posterior.log_ratio` of pairs that match.
        unpaired_log_ratio_K: same, of uniformly drawn unpaired pairs.
        pairs: how many unpaired pairs there are; None: more than were drawn.

    Returns:
        1 / π, above 1. At each threshold, one is added to the number of draws above it. Where there are fewer pairs
        than draws, at least one pair counts as above it, with all its draws.
    """
    positive_K = positive_log_ratio_K.double()
    share_T = torch.linspace(FEWEST_ABOVE, 1, 100, dtype=torch.float64, device=positive_K.device)
    ordered_K = positive_K.sort(descending=True).values
    threshold_T = ordered_K[((share_T * len(positive_K)).ceil().long() - 1).clamp(min=0)]
    unpaired_K = unpaired_log_ratio_K.double().sort().values
    above_T = len(unpaired_K) - torch.searchsorted(unpaired_K, threshold_T)
    draws_of_a_pair = 0.0 if pairs is None else len(unpaired_K) / pairs
    tail_T = (above_T + 1).clamp(min=draws_of_a_pair) / (len(unpaired_K) + 1)
    return max(float((share_T / tail_T).max()), math.nextafter(1, 2))


def separation(positive_K: Tensor, unpaired_K: Tensor) -> float:
    """The area under the ROC curve: how often a matching pair's log-ratio is above a random one's; equal ones half."""
    ordered_K = unpaired_K.sort().values
    below_K, up_to_K = (torch.searchsorted(ordered_K, positive_K, right=right) for right in (False, True))
    return float((below_K + up_to_K).double().mean() / (2 * len(ordered_K)))


def _log_ratio(evidence_KF: Tensor, positive: Normals, negative: Normals) -> Tensor:
    evidence_KF = evidence_KF.double().clamp(*_rising(positive, negative))
    return (positive.log_densities(evidence_KF) - negative.log_densities(evidence_KF)).nansum(1)


def _rising(positive: Normals, negative: Normals) -> tuple[Tensor, Tensor]:
    """The range, (F,) and (F,), in which more evidence never lowers the log-ratio; what lies beyond is set to its end.

    The log-ratio is a parabola, which falls again beyond its vertex. Without this, captions that agree *more* than an
    image's own usually do would count against a match: an identical caption, where an image's own captions have few
    words in common.
    """
    reach_F = FARTHEST_STD * torch.maximum(positive.variance_F, negative.variance_F).sqrt()
    low_F = torch.minimum(positive.mean_F, negative.mean_F) - reach_F
    high_F = torch.maximum(positive.mean_F, negative.mean_F) + reach_F
    precision_F, other_F = 1 / positive.variance_F, 1 / negative.variance_F
    vertex_F = (positive.mean_F * precision_F - negative.mean_F * other_F) / (precision_F - other_F)
    low_F = torch.where((precision_F < other_F) & (vertex_F > low_F), vertex_F, low_F)
    return low_F, torch.where((precision_F > other_F) & (vertex_F < high_F), vertex_F, high_F)


def _temperature(positive_K: Tensor, negative_K: Tensor) -> float:
    """The factor of the log-ratio with the highest likelihood of the pairs."""
    from scipy.optimize import minimize_scalar

    def loss(factor: float) -> float:
        return float(softplus(-factor * positive_K).mean() + softplus(factor * negative_K).mean())

    return float(minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x)
