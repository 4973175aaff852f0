"""Whether a training's numbers are still worth going on with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pipeline.errors import InputError

COLLAPSED = 0.99  # similarity/collapse beyond which a training is warned of
ADVICE = 'A lower train.lr or train.clip, or precision "no", may help; the last checkpoint is kept'


def means_of(steps: Sequence[Tensor]) -> list[float]:
    """What was noticed over some steps, (steps, figures), as the mean of each figure; the first one is the loss.

    A figure that a step could not tell (NaN) is left to the others; a loss that is no number stays none.
    """
    told = torch.stack(list(steps))
    means = told.mean(dim=0)
    means[1:] = means[1:].where(~means[1:].isnan(), told[:, 1:].nanmean(dim=0))
    return [float(value) for value in means.tolist()]


def check_finite(loss: float, model: nn.Module, epoch: int, step: int) -> None:
    """Stop before numbers that are none reach a checkpoint.

    Raises:
        InputError: when the loss is not finite, or a weight is not: that shows in the loss only a step later.
    """
    where = f"at epoch {epoch}, step {step}: training cannot go on. {ADVICE}"
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
