"""The learning rate by epoch and step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.params import TrainParams

DECAY = 0.1


def learning_rate(initial: float, milestones: Sequence[int], epoch: int) -> float:
    """`initial`, a tenth from each milestone on (epochs count from 0; a milestone of 5 acts before epoch 5)."""
    return initial * DECAY ** sum(epoch >= milestone for milestone in milestones)


def cosine_rate(initial: float, warmup: int, total: int, position: int) -> float:
    """Up to `initial` in a straight line over `warmup` positions, then half a cosine down to 0 at `total`.

    Positions count from 0 and are below `total`.
    """
    if position < warmup:
        return initial * (position + 1) / warmup
    share = (position - warmup) / max(1, total - warmup)
    return initial * (1 + math.cos(math.pi * share)) / 2


def scheduled_rate(settings: TrainParams, epoch: int, batch: int, batches: int, samples: int) -> float:
    """The rate of one step.

    Args:
        settings: which schedule.
        epoch: from 0.
        batch: the step's number within the epoch, from 0.
        batches: steps an epoch.
        samples: training pairs. NPC's published code gives an epoch as many positions as it has samples, but moves
            on by one a step (`schedule_counts: samples`), so that the cosine falls in stairs, one an epoch.
    """
    if settings.schedule == "cosine":
        length = samples if settings.schedule_counts == "samples" else batches
        return cosine_rate(settings.lr, settings.warmup_steps, settings.epochs * length, epoch * length + batch)
    rate = learning_rate(settings.lr, settings.milestones, epoch)
    return rate * min(1.0, (epoch * batches + batch + 1) / max(1, settings.warmup_steps))
