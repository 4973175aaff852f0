"""Whether a training can continue with its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pipeline.errors import InputError

COLLAPSED = 0.99  # similarity/collapse beyond which a training is warned of
ADVICE = 'A lower train.lr or train.clip, or precision "no", may help; the last checkpoint is kept'


def means_of(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """What some steps logged, all under the same names, as the mean of each metric over the steps.

    A step where a metric is unknown (NaN) is left out of its mean, and a metric unknown in all of them is left out of
    the answer; but a loss that is not a number stays one.
    """
    values_SK = torch.stack([torch.stack(list(step.values())) for step in steps])
    mean_K, known_K = values_SK.mean(dim=0), values_SK.nanmean(dim=0)
    means = zip(steps[0], mean_K.tolist(), known_K.tolist(), strict=True)
    found = {name: known if name != "train/loss" and math.isnan(mean) else mean for name, mean, known in means}
    return {name: mean for name, mean in found.items() if name == "train/loss" or not math.isnan(mean)}


def check_finite(loss: float, model: nn.Module, epoch: int, step: int) -> None:
    """Stop before numbers that are none reach a checkpoint.

    Raises:
        InputError: when the loss is not finite, or a weight is not: that shows in the loss only a step later.
    """
    where = f"at epoch {epoch}, step {step}: training cannot continue. {ADVICE}"
    if not torch.tensor(loss).isfinite():
        raise InputError(f"loss is {loss} {where}")
    if not get_total_norm([parameter.detach() for parameter in model.parameters()]).isfinite():
        raise InputError(f"the loss was finite, but a weight is not {where}")


def collapse_warning(collapse: float, epoch: int) -> str | None:
    """A line for the user once different images or captions are all but one vector; None before."""
    if not collapse > COLLAPSED:
        return None
    return (
        f"warning: the towers collapse: different images or captions are {collapse:.3f} alike in epoch {epoch + 1} "
        "(similarity/collapse; 1 is all the same). A lower train.lr or train.warmup infonce may help"
    )
