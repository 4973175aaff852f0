"""The optimiser of params.yaml, its parameter groups, and their learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn, optim

from pipeline.models.towers import MatchingModel
from pipeline.models.trainable import depths, layers_of
from pipeline.params import TrainParams

SCALE = "scale"
"""In a parameter group: the factor on the learning rate."""


def decayed(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices, not to gains, biases and the temperature, as usual for CLIP."""
    return parameter.ndim > 1


def rate_scales(model: MatchingModel, layer_decay: float) -> dict[str, float]:
    """The factor on the learning rate of each tower's parameters by name: `layer_decay` for each layer above it.

    What is above the layers has 1, the last layer `layer_decay`, and so on, as in BEiT (Bao et al. 2022).
    """
    scales: dict[str, float] = {}
    for side in ("image_tower", "text_tower"):
        tower = getattr(model, side)
        top = layers_of(tower)[1] + 1
        scales |= {f"{side}.{name}": layer_decay ** (top - depth) for name, depth in depths(tower).items()}
    return scales


def parameter_groups(model: nn.Module, weight_decay: float, scales: Mapping[str, float]) -> list[dict[str, Any]]:
    """The trained parameters in groups of one weight decay and one factor on the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = scales.get(name, 1.0), weight_decay if decayed(parameter) else 0.0
            groups.setdefault(key, []).append(parameter)
    return [{"params": groups[key], "weight_decay": key[1], SCALE: key[0]} for key in sorted(groups, reverse=True)]


def make_optimiser(model: nn.Module, settings: TrainParams) -> optim.Optimizer:
    """Adam, or AdamW, over the model's trained parameters."""
    kind = optim.AdamW if settings.optimiser == "adamw" else optim.Adam
    scales = rate_scales(model, settings.layer_decay) if isinstance(model, MatchingModel) else {}
    groups = parameter_groups(model, settings.weight_decay, scales)
    return kind(groups, lr=settings.lr, betas=(settings.betas[0], settings.betas[1]), eps=settings.eps, fused=True)


def set_rate(optimiser: optim.Optimizer, rate: float) -> None:
    """Set the learning rate, each group's by its factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group[SCALE]


def rate_of(optimiser: optim.Optimizer) -> float:
    """The learning rate that `set_rate` was given."""
    group = optimiser.param_groups[0]
    return float(group["lr"] / group[SCALE])
