"""The optimiser of params.yaml and its parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn, optim

from pipeline.params import TrainParams


def decayed(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices, not to gains, biases and the temperature, as usual for CLIP."""
    return parameter.ndim > 1


def parameter_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """One group, or with weight decay two."""
    if not weight_decay:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    chosen = [parameter for parameter in parameters if decayed(parameter)]
    spared = [parameter for parameter in parameters if not decayed(parameter)]
    return [{"params": chosen, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def make_optimiser(model: nn.Module, settings: TrainParams) -> optim.Optimizer:
    """Adam, or AdamW, over all of the model's parameters."""
    kind = optim.AdamW if settings.optimiser == "adamw" else optim.Adam
    groups = parameter_groups(list(model.parameters()), settings.weight_decay)
    return kind(groups, lr=settings.lr, betas=(settings.betas[0], settings.betas[1]), eps=settings.eps, fused=True)
