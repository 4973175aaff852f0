"""The learning rate by epoch."""

from __future__ import annotations

from collections.abc import Sequence

DECAY = 0.1


def learning_rate(initial: float, milestones: Sequence[int], epoch: int) -> float:
    """`initial`, a tenth from each milestone on (epochs count from 0; a milestone of 5 acts before epoch 5)."""
    return initial * DECAY ** sum(epoch >= milestone for milestone in milestones)
