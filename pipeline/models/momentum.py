"""The momentum model: an exponential moving average of the trained one."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def momentum_copy(model: Model) -> Model:
    """A copy of `model` without gradients, in evaluation mode: the memory's features have no dropout noise."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update_momentum(averaged: nn.Module, model: nn.Module, momentum: float) -> None:
    """`θ_m ← m θ_m + (1 - m) θ` for all parameters in one multi-tensor pass; buffers are copied."""
    targets: list[torch.Tensor] = list(averaged.parameters())
    sources: list[torch.Tensor] = list(model.parameters())
    if targets:
        torch._foreach_lerp_(targets, sources, 1 - momentum)
    for target, source in zip(averaged.buffers(), model.buffers(), strict=True):
        target.copy_(source)
