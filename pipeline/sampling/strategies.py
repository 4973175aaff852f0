"""Sampling weights from similarities: which candidates are negatives, and how much each counts.

Shapes: B anchors, C candidates (the batch's, then the memory's). Everything here is for one direction, called once for
image→text and once for text→image. `excluded_BC` is True where a candidate must not be a negative: a caption (image)
known to match, or a memory slot not yet written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.sampling.posterior import false_negative_posterior
from pipeline.sampling.statistics import SimilarityStatistics

MANY = 1 << 16  # candidates
COARSE_STEPS = 1 << 22  # the middle of a step, scaled in float32, never rounds to 0 or 1
LARGEST_DISTANCE = 4  # (s - s⁺)² of cosines
LARGEST_EXPONENT = 80  # e^-87 is the smallest number that float32 holds in full

Mean = TypeVar("Mean", float, Tensor)


def cutdown_threshold(positive_mean: Mean, cutdown: float) -> Mean:
    """μ+ - cutdown: a candidate at or below this similarity is too simple (Li et al. 2023)."""
    return positive_mean - cutdown


class SamplerSettings(Protocol):
    """The settings of a strategy, as in `pipeline.params.SamplerParams`."""

    strategy: Any  # fne, hardest, semi_hard, random, all, or the name of `weigh`
    cutdown: float  # distance below μ+ from which a candidate is too simple
    alpha: float  # how fast a weight falls
    suspect_alpha: float | None  # alpha of suspects; None: `alpha`
    prior: Any  # K of the posterior of the similarity; "estimated": there is one from evidence
    suspect: float  # posterior above which a candidate is suspected
    drop: float | None  # posterior above which a candidate is never a negative; None: never dropped
    min_matches: int  # the posterior of the similarity is used only after more positives than this


@dataclass(frozen=True)
class Sample:
    """A strategy's weights, and for metrics (bool): which candidates FNE suspects; which FNE cuts down, or another
    method leaves out; which are dropped (None: nothing is ever dropped).
    """

    weights_BC: Tensor
    suspected_BC: Tensor
    cut_down_BC: Tensor
    dropped_BC: Tensor | None = None


def fne_weights(
    similarity_BC: Tensor,
    own_similarity_B: Tensor,
    known_positive_BC: Tensor,
    statistics: SimilarityStatistics,
    *,
    cutdown: float,
    alpha: float,
    prior: float,
    suspect: float,
    min_matches: int,
    suspect_alpha: float | None = None,
) -> Tensor:
    """FNE's sampling weights, with cut-down and fall-back (Li et al. 2023), before the draw.

    The weight of a suspected false negative, `p(s) > suspect`, is `exp(-α p(s))`; of any other candidate
    `exp(-α (s - s⁺)²)`; of a known positive and of a simple negative, `s ≤ μ+ - cutdown`, 0. An anchor without any
    candidate left gives weight 1 to its hardest negative; if all its candidates are known positives, its row stays 0.

    If α is so large that all weights of a row underflow, the row is divided by its largest weight: the probabilities of
    the draw stay the same, and the anchor keeps a negative.

    Args:
        similarity_BC: (B, C) cosine similarities.
        own_similarity_B: (B,) s⁺, each anchor's similarity to its own positive.
        known_positive_BC: (B, C) bool, candidates that are never negatives.
        statistics: of the epoch so far, with this batch. The posterior is used once the positive count exceeds
            `min_matches`; the cut-down is always used (μ+ is 0 before the first match).
        cutdown: distance below μ+ from which a candidate is too simple.
        alpha: how fast the weight falls.
        prior: K of the posterior.
        suspect: posterior above which a candidate is suspected.
        min_matches: the posterior is used only after more positives than this.
        suspect_alpha: α of suspects, where a large value eliminates them; None: `alpha`.

    Returns:
        weights_BC: (B, C), no gradient.
    """
    similarity_BC = similarity_BC.detach()
    return _fne_sample(
        similarity_BC,
        own_similarity_B.detach(),
        known_positive_BC,
        statistics,
        false_negative_posterior(similarity_BC, statistics.positive, statistics.negative, prior),
        torch.as_tensor(statistics.positive.count > min_matches),  # evaluation gives numbers
        cutdown=cutdown,
        alpha=alpha,
        suspect=suspect,
        suspect_alpha=suspect_alpha,
    ).weights_BC


def sample(
    similarity_BC: Tensor,
    own_similarity_B: Tensor,
    excluded_BC: Tensor,
    statistics: SimilarityStatistics,
    settings: SamplerSettings,
    *,
    margin: float,
    uniform_B: Tensor,
    evidence_BC: Tensor | None = None,
    weigh: Callable[[Tensor], Tensor] | None = None,
) -> Sample:
    """The weights of the strategy in `settings`; `margin` bounds `semi_hard`, `uniform_B` draws `random`; those of a
    strategy that is not in this file are `weigh(excluded_BC)`.

    For every strategy, the suspected and the cut-down candidates are those of FNE, so that strategies can be compared.
    `evidence_BC` is the posterior from evidence; None: that of the similarity. A candidate whose posterior is above
    `settings.drop` has weight 0 in every strategy.
    """
    similarity_BC, own_similarity_B = similarity_BC.detach(), own_similarity_B.detach()
    if evidence_BC is not None:
        posterior_BC, usable = evidence_BC, torch.ones((), dtype=torch.bool, device=evidence_BC.device)
    else:
        assert isinstance(settings.prior, (int, float))
        posterior_BC = false_negative_posterior(similarity_BC, statistics.positive, statistics.negative, settings.prior)
        usable = statistics.positive.count > settings.min_matches
    dropped_BC = None
    if settings.drop is not None:
        dropped_BC = (posterior_BC > settings.drop) & usable & ~excluded_BC
        excluded_BC = excluded_BC | dropped_BC
    fne = _fne_sample(
        similarity_BC,
        own_similarity_B,
        excluded_BC,
        statistics,
        posterior_BC,
        usable,
        cutdown=settings.cutdown,
        alpha=settings.alpha,
        suspect=settings.suspect,
        suspect_alpha=settings.suspect_alpha,
    )
    match settings.strategy:
        case "fne":
            return replace(fne, dropped_BC=dropped_BC)
        case "hardest":
            weights_BC = hardest_weights(similarity_BC, excluded_BC)
        case "semi_hard":
            weights_BC = semi_hard_weights(similarity_BC, own_similarity_B, excluded_BC, margin)
        case "random":
            weights_BC = random_weights(excluded_BC, uniform_B)
        case "all":
            weights_BC = all_weights(excluded_BC)
        case unknown:
            if weigh is None:
                raise ValueError(f"unknown sampling strategy {unknown!r}")
            weights_BC = weigh(excluded_BC)
            return Sample(weights_BC, fne.suspected_BC, (weights_BC == 0) & ~excluded_BC, dropped_BC)
    return Sample(weights_BC, fne.suspected_BC, torch.zeros_like(fne.cut_down_BC), dropped_BC)


def hardest_weights(similarity_BC: Tensor, excluded_BC: Tensor) -> Tensor:
    """1 on each anchor's most similar candidate, 0 elsewhere; a row without candidates stays 0."""
    candidate_BC = similarity_BC.where(~excluded_BC, -torch.inf)
    return _one_hot(candidate_BC.argmax(dim=1), excluded_BC)


def semi_hard_weights(similarity_BC: Tensor, own_similarity_B: Tensor, excluded_BC: Tensor, margin: float) -> Tensor:
    """1 on candidates less similar than the positive but within the margin (Schroff et al. 2015).

    An anchor without such a candidate takes its hardest candidate that is less similar than the positive; without that
    also, its hardest candidate.
    """
    easier_BC = (similarity_BC < own_similarity_B[:, None]) & ~excluded_BC
    band_BC = easier_BC & (similarity_BC > own_similarity_B[:, None] - margin)
    no_easier_B1 = ~easier_BC.any(dim=1, keepdim=True)
    fallback_BC = hardest_weights(similarity_BC, torch.where(no_easier_B1, excluded_BC, ~easier_BC))
    return torch.where(band_BC.any(dim=1, keepdim=True), band_BC.to(similarity_BC.dtype), fallback_BC)


def random_weights(excluded_BC: Tensor, uniform_B: Tensor) -> Tensor:
    """1 on one candidate of each anchor, drawn uniformly by `uniform_B` in (0, 1)."""
    return _one_hot(draw_negative(all_weights(excluded_BC), uniform_B), excluded_BC)


def all_weights(excluded_BC: Tensor) -> Tensor:
    """1 on every candidate."""
    return (~excluded_BC).float()


def draw_negative(weights_BC: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw one candidate per anchor, with probability proportional to its weight.

    With fewer than `MANY` candidates, the uniform number is rounded to `COARSE_STEPS` steps, in the weights' precision.
    With more, some candidates would be drawn too often or never, so the draw is in float64 without rounding.

    Args:
        weights_BC: (B, C), not negative.
        uniform_B: (B,) in (0, 1); the same number gives the same candidate on any number of processes.

    Returns:
        negative_B: (B,) column indices; a candidate of weight 0 is never drawn, unless its whole row is 0.
    """
    if weights_BC.shape[1] < MANY:
        cumulative_BC = weights_BC.cumsum(dim=1)
        uniform_B = ((uniform_B.double() * COARSE_STEPS).floor() + 0.5) / COARSE_STEPS
    else:
        cumulative_BC = weights_BC.cumsum(dim=1, dtype=torch.float64)
    target_B1 = uniform_B.to(cumulative_BC.dtype)[:, None] * cumulative_BC[:, -1:]
    drawn_B1 = torch.searchsorted(cumulative_BC, target_B1, right=True).clamp(max=weights_BC.shape[1] - 1)
    # a GPU's parallel scan may round so that a weight of 0 increases the sum
    some_B1 = weights_BC.gather(1, drawn_B1) > 0
    if weights_BC.device.type != "cpu" or not some_B1.all():  # on a GPU, `all` would make the host wait
        drawn_B1 = torch.where(some_B1, drawn_B1, weights_BC.argmax(dim=1, keepdim=True))
    return drawn_B1.squeeze(1)


def _fne_sample(
    similarity_BC: Tensor,
    own_similarity_B: Tensor,
    excluded_BC: Tensor,
    statistics: SimilarityStatistics,
    posterior_BC: Tensor,
    usable: Tensor,
    *,
    cutdown: float,
    alpha: float,
    suspect: float,
    suspect_alpha: float | None,
) -> Sample:
    """`posterior_BC` is overwritten; `usable`: 0-dimensional bool, whether there is a posterior yet."""
    # the cost is in passes over (B, C): use few of them, in place where possible
    threshold = cutdown_threshold(statistics.positive.mean, cutdown)
    candidate_BC = similarity_BC.masked_fill(excluded_BC, -torch.inf)
    hardest_B1 = candidate_BC.amax(dim=1, keepdim=True)
    dropped_BC = (candidate_BC <= threshold) | excluded_BC
    suspected_BC = (posterior_BC > suspect).logical_and_(usable)
    suspected_BC &= ~excluded_BC
    distance_BC = (similarity_BC - own_similarity_B[:, None]).square_().mul_(-alpha)
    suspect_alpha = alpha if suspect_alpha is None else suspect_alpha
    weights_BC = torch.where(suspected_BC, posterior_BC.mul_(-suspect_alpha), distance_BC)
    weights_BC.masked_fill_(dropped_BC, -torch.inf)
    if max(suspect_alpha, alpha * LARGEST_DISTANCE) > LARGEST_EXPONENT:
        largest_B1 = weights_BC.amax(dim=1, keepdim=True)
        weights_BC -= largest_B1.where((largest_B1 < -LARGEST_EXPONENT) & largest_B1.isfinite(), 0)
    weights_BC.exp_()
    only_B1 = (hardest_B1 <= threshold) & hardest_B1.isfinite()
    if weights_BC.device.type != "cpu" or only_B1.any():  # on a GPU, `any` would make the host wait
        place_B1 = candidate_BC.argmax(dim=1, keepdim=True)
        weights_BC.scatter_(1, place_B1, torch.where(only_B1, 1, weights_BC.gather(1, place_B1)))
    return Sample(weights_BC, suspected_BC, dropped_BC ^ excluded_BC)


def _one_hot(chosen_B: Tensor, excluded_BC: Tensor) -> Tensor:
    weights_BC = torch.zeros(excluded_BC.shape, device=excluded_BC.device).scatter_(1, chosen_B[:, None], 1.0)
    return weights_BC.where(~excluded_BC, 0)
