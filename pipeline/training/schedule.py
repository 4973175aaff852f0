"""The learning rate by epoch and step."""

from __future__ import annotations

import math

from pipeline.params import TrainParams

DECAY = 0.1  # at each milestone: one of 5 applies from epoch 5, counted from 0


def cosine_rate(initial: float, warmup: int, total: int, position: int) -> float:
    """Linear up to `initial` over `warmup` positions, then half a cosine down to 0 at `total`.

    Positions count from 0 and are below `total`.
    """
    if position < warmup:
        return initial * (position + 1) / warmup
    share = (position - warmup) / max(1, total - warmup)
    return initial * (1 + math.cos(math.pi * share)) / 2


def scheduled_rate(settings: TrainParams, epoch: int, batch: int, batches: int, samples: int) -> float:
    """The learning rate of one step.

    Args:
        settings: which schedule.
        epoch: from 0.
        batch: the step's number within the epoch, from 0.
        batches: steps per epoch.
        samples: training pairs. NPC's published code counts one position per sample but advances one position per
            step (`schedule_counts: samples`), so the cosine falls in stairs, one per epoch.
    """
    if settings.schedule == "cosine":
        length = samples if settings.schedule_counts == "samples" else batches
        return cosine_rate(settings.lr, settings.warmup_steps, settings.epochs * length, epoch * length + batch)
    rate = settings.lr * DECAY ** sum(epoch >= milestone for milestone in settings.milestones)
    return rate * min(1.0, (epoch * batches + batch + 1) / max(1, settings.warmup_steps))
