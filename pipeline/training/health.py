"""Checks of a training: settings that have no effect, finite numbers, no collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pipeline.errors import InputError
from pipeline.evidence.listed import LEAST_POSTERIOR
from pipeline.params import GUIDED, Params
from pipeline.runtime.processes import average

COLLAPSED = 0.99  # the user is warned when similarity/collapse is above this
ADVICE = 'A lower train.lr or train.clip, or precision "no", may help; the last checkpoint is kept'


def without_effect(params: Params) -> list[str]:
    """A warning for the user for each setting that the other ones leave without effect."""
    sampler, train, warnings = params.sampler, params.train, []
    if 0 < train.epochs <= train.warmup_epochs:
        warnings.append(
            f"warning: train.warmup_epochs {train.warmup_epochs} of train.epochs {train.epochs}: no epoch is left in "
            "which sampler.strategy, loss.name and targets.name have an effect"
        )
    by_posterior = sampler.strategy in GUIDED and sampler.guide == "posterior" and sampler.posterior == "evidence"
    if by_posterior and sampler.prior == "estimated" and sampler.drop is not None and sampler.drop <= LEAST_POSTERIOR:
        warnings.append(
            f"warning: sampler.drop {sampler.drop:g} leaves out every pair that the guide of sampler.strategy "
            f"{sampler.strategy} knows, so that it is strategy all; set sampler.drop null"
        )
    return warnings


def warm_up_is_all(params: Params) -> bool:
    """Whether later epochs do what the warm-up does: the whole batch counts, in the same loss, for the own pair."""
    same = params.sampler.strategy == "all" and params.loss.name == params.train.warmup
    return same and params.memory.size == 0 and params.targets.name == "own"


def means_of(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The mean of each metric over all processes and over steps that all logged the same names.

    Steps where a metric is unknown (NaN) are left out of its mean; a metric that is unknown in all steps is left out of
    the result. A NaN loss stays NaN.
    """
    values_SK = torch.stack([torch.stack(list(step.values())) for step in steps])
    average([values_SK])
    mean_K, known_K = values_SK.mean(dim=0), values_SK.nanmean(dim=0)
    means = zip(steps[0], mean_K.tolist(), known_K.tolist(), strict=True)
    found = {name: known if name != "train/loss" and math.isnan(mean) else mean for name, mean, known in means}
    return {name: mean for name, mean in found.items() if name == "train/loss" or not math.isnan(mean)}


def check_finite(loss: float, model: nn.Module, epoch: int, step: int) -> None:
    """Stop before NaN or infinite numbers reach a checkpoint.

    Raises:
        InputError: when the loss or a weight is not finite (a weight would show in the loss only one step later).
    """
    where = f"at epoch {epoch}, step {step}: training cannot continue. {ADVICE}"
    if not torch.tensor(loss).isfinite():
        raise InputError(f"loss is {loss} {where}")
    if not get_total_norm([parameter.detach() for parameter in model.parameters()]).isfinite():
        raise InputError(f"the loss was finite, but a weight is not {where}")


def collapse_warning(collapse: float, epoch: int) -> str | None:
    """A warning for the user when different images or captions have almost the same vector, else None."""
    if not collapse > COLLAPSED:
        return None
    return (
        f"warning: the towers collapse: different images or captions are {collapse:.3f} alike in epoch {epoch + 1} "
        "(similarity/collapse; 1 is all the same). A lower train.lr or train.warmup infonce may help"
    )
