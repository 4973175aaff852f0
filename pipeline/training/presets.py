"""The methods that params.yaml can name: which pure function makes the weights, the margins, the targets and the loss.

A row binds a function's arguments to parameters; the functions know no parameters. Shapes as in `Candidates`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.objectives import mine as my_losses
from pipeline.objectives.complementary import complementary_loss
from pipeline.objectives.contrastive import infonce_loss
from pipeline.objectives.debiased import debiased_loss
from pipeline.objectives.rince import rince_loss
from pipeline.objectives.sigmoid import sigmoid_loss
from pipeline.objectives.triplet import mean_hinge_loss, mean_violation_loss
from pipeline.params import MINE, LossParams, SamplerParams, TargetsParams
from pipeline.sampling import mine
from pipeline.sampling.candidates import Candidates
from pipeline.sampling.guided import (
    agreement_margins,
    below_threshold_weights,
    guided_weights,
    true_negative_weights,
)
from pipeline.sampling.hard import annealed_count, hardest_weights_of, hardness_weights, hcl_weights
from pipeline.sampling.targets import (
    distilled_targets,
    mixed_with_own,
    pseudo_positive_targets,
    same_image_targets,
    soft_targets,
    transported,
)

Given = TypeVar("Given")


class Settings(NamedTuple):
    """The sections of params.yaml that presets read."""

    sampler: SamplerParams
    targets: TargetsParams
    loss: LossParams


class Terms(NamedTuple):
    """What a loss is made of, in one direction; None: at its default."""

    similarity_BC: Tensor
    own_similarity_B: Tensor
    weights_BC: Tensor
    temperature: float | Tensor
    bias: float | Tensor
    targets: Tensor | None = None
    margins: Tensor | None = None


WEIGHTS: dict[str, Callable[[Candidates, Settings], Tensor]] = {
    "hcl": lambda c, p: hcl_weights(c.similarity_BC, c.excluded_BC, c.temperature, p.sampler.beta),
    "hardness": lambda c, p: hardness_weights(c.similarity_BC, c.excluded_BC, p.sampler.hardness),
    "decl": lambda c, p: hardest_weights_of(c.similarity_BC, c.excluded_BC, _annealed(c, p.sampler)),
    "glofnd": lambda c, p: below_threshold_weights(c.similarity_BC, given(c.threshold_B), c.excluded_BC),
    "oracle": lambda c, p: true_negative_weights(given(c.truth)(), c.excluded_BC),
    "gist": lambda c, p: guided_weights(*c.known.guide(c), c.excluded_BC, 0.0),
    "marginpos": lambda c, p: guided_weights(*c.known.guide(c), c.excluded_BC, p.sampler.guide_margin),
    "percpos": lambda c, p: guided_weights(*c.known.guide(c), c.excluded_BC, p.sampler.guide_margin, relative=True),
}
"""By `sampler.strategy`; those that need no more than the statistics are in `pipeline.sampling.strategies`."""

DIFFERENTIABLE = ("hcl",)
"""Strategies whose weights carry a gradient."""

MARGINS: dict[str, Callable[[Candidates, Settings], Tensor]] = {
    "lg": lambda c, p: agreement_margins(c.known.agreement(c), c.known.usual_agreement, p.loss.margin),
}
"""By `sampler.strategy`; the weights of these are 1."""

TARGETS: dict[str, Callable[[Candidates, Settings], Tensor]] = {
    "same_image": lambda c, p: same_image_targets(c.positive_BC),
    "albef": lambda c, p: distilled_targets(
        c.own_first(given(c.momentum)(), -torch.inf), c.positive_BC, c.temperature, p.targets.weight * c.moment.ramp
    ),
    "pseudo_positive": lambda c, p: pseudo_positive_targets(
        c.similarity_BC, c.own_similarity_B, c.eligible_BC, p.targets.weight
    ),
    "xclr": lambda c, p: soft_targets(c.own_first(c.known.captions(c), -torch.inf), p.targets.temperature),
    "sinkhorn": lambda c, p: mixed_with_own(
        c.own_first(transported(given(c.whole)(), p.targets.temperature)[c.own_B]), p.targets.weight
    ),
    "cusa": lambda c, p: same_image_targets(c.positive_BC),
}
"""By `targets.name`."""

ALIGNED: dict[str, Callable[[Candidates, Settings], Tensor]] = {
    "cusa": lambda c, p: soft_targets(
        c.own_first(c.known.pictures(c) if c.to_text else c.known.captions(c), -torch.inf), p.targets.temperature
    ),
}
"""By `targets.name`: distributions to which a second softmax is drawn, at `ALIGNED_TEMPERATURE`."""
ALIGNED_TEMPERATURE = 0.45  # CUSA's initial value; learned there

LOSSES: dict[str, Callable[[Terms, LossParams], Tensor]] = {
    "infonce": lambda t, p: infonce_loss(*t[:4], targets=t.targets, margins=t.margins) / 2,
    "sigmoid": lambda t, p: sigmoid_loss(*t[:5], targets=_by_own(t.targets), margins=t.margins) / 2,
    "triplet": lambda t, p: mean_violation_loss(*t[:3], p.margin if t.margins is None else t.margins),
    "hinge": lambda t, p: mean_violation_loss(*t[:3], p.margin if t.margins is None else t.margins),
    "hinge_mean": lambda t, p: mean_hinge_loss(*t[:3], p.margin if t.margins is None else t.margins),
    "debiased": lambda t, p: debiased_loss(*_moved(t)[:4], given(p.debias)) / 2,
    "rince": lambda t, p: rince_loss(*_moved(t)[:4], p.exponent, p.density) / 2,
    "rcl": lambda t, p: complementary_loss(*_moved(t)[:4], p.penalty) / 2,
}
"""By `loss.name`; each direction's part of the loss. `debiased` is `infonce` with `loss.debias`."""


def weigh(candidates: Candidates, settings: Settings) -> Tensor:
    """The weights (B, C) of a strategy that is not in `pipeline.sampling.strategies`."""
    name = settings.sampler.strategy
    with torch.set_grad_enabled(torch.is_grad_enabled() and name in DIFFERENTIABLE):
        if name in MARGINS:
            return (~candidates.excluded_BC).float()
        return _own_function(name, mine)(candidates) if _is_mine(name) else WEIGHTS[name](candidates, settings)


@torch.no_grad()
def margins_of(candidates: Candidates, settings: Settings) -> Tensor | None:
    """The margins (B, C) of a strategy that sets some, else None."""
    make = MARGINS.get(settings.sampler.strategy)
    return None if make is None else make(candidates, settings)


def aligned_loss(terms: Terms, candidates: Candidates, settings: Settings) -> Tensor | None:
    """What a target adds to the loss (B,): the divergence of a second softmax from it; None for most."""
    make = ALIGNED.get(settings.targets.name)
    if make is None:
        return None
    with torch.no_grad():
        targets = make(candidates, settings)
    entropy_B = torch.special.entr(targets).sum(dim=1)
    among = (terms.similarity_BC, terms.own_similarity_B, candidates.eligible_BC.float(), ALIGNED_TEMPERATURE)
    return settings.targets.weight * (infonce_loss(*among, targets=targets) - entropy_B) / 2


@torch.no_grad()
def targets_of(candidates: Candidates, settings: Settings) -> Tensor | None:
    """The target distribution (B, 1 + C); None: the own pair."""
    name = settings.targets.name
    if name == "own":
        return None
    return _own_function(name, mine)(candidates) if _is_mine(name) else TARGETS[name](candidates, settings)


def loss_of(terms: Terms, settings: LossParams, name: str) -> Tensor:
    """Each anchor's loss (B,) in one direction."""
    if _is_mine(name):
        named = {"targets": terms.targets, "margins": terms.margins}
        return _own_function(name, my_losses)(
            *terms[:4], **{key: value for key, value in named.items() if value is not None}
        )
    return LOSSES[name](terms, settings)


def given(value: Given | None) -> Given:
    """What params.py and stage `train` have made sure of."""
    assert value is not None
    return value


def in_denominator(weights_BC: Tensor, targets: Tensor) -> Tensor:
    """Weights in which whatever a target names counts 1 where it counted 0, such as a known positive."""
    return weights_BC.masked_fill((weights_BC == 0) & (targets[:, 1:] > 0), 1)


def check_own_functions(settings: Settings) -> None:
    """Refuse a name that no function has, before any work.

    Raises:
        InputError: naming the functions that there are.
    """
    names = {"sampler.strategy": settings.sampler.strategy, "targets.name": settings.targets.name}
    for key, name in (names | {"loss.name": settings.loss.name}).items():
        if _is_mine(name):
            _own_function(name, my_losses if key == "loss.name" else mine, key)


def _annealed(candidates: Candidates, sampler: SamplerParams) -> int:
    count = candidates.similarity_BC.shape[1]
    return annealed_count(count, candidates.moment.step, sampler.annealing, sampler.fewest)


def _is_mine(name: str) -> bool:
    return name.startswith(MINE)


def _own_function(name: str, module: ModuleType, key: str = "") -> Callable[..., Any]:
    found = getattr(module, name.removeprefix(MINE), None)
    if not callable(found):
        path = f"{module.__name__.replace('.', '/')}.py"
        raise InputError(f"{key} = {name!r}: {path} has no function {name.removeprefix(MINE)}")
    function: Callable[..., Any] = found
    return function


def _moved(terms: Terms) -> Terms:
    """With the margins added to the candidates' similarities, for losses that compare these with the own pair alone."""
    if terms.margins is None:
        return terms
    return terms._replace(similarity_BC=terms.similarity_BC + terms.margins)


def _by_own(targets: Tensor | None) -> Tensor | None:
    """Targets of single pairs, in [0, 1]: relative to the own pair's, which counts as certain."""
    return None if targets is None else (targets / targets[:, :1]).clamp(max=1)
