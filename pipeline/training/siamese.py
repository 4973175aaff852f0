"""The siamese model A' of NPC: one optimiser step away from the model, without a copy of it.

A' equals the model at the beginning of every step and is dropped at its end; only its optimiser's moments stay
(Zhang, Li and Ye 2024, section "negative impact"; see docs/methods.md).
"""

from __future__ import annotations

from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from pipeline.params import TrainParams
from pipeline.runtime.processes import average, process_count
from pipeline.training.optimiser import decayed


class Siamese:
    """Adam's (or AdamW's) step from the model's weights, as new tensors for `torch.func.functional_call`.

    Args:
        model: the weights to start from.
        settings: of the optimiser; the moments are separate from the model's.
        gradient_scale: 4 reproduces NPC's published code, which adds both directions and back-propagates twice.
    """

    def __init__(self, model: nn.Module, settings: TrainParams, gradient_scale: float) -> None:
        """Start with empty moments."""
        self.settings, self.gradient_scale = settings, gradient_scale
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.names = list(trained)
        self.parameters: list[Tensor] = list(trained.values())
        self.mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor | None, ...], lr: float) -> dict[str, Tensor]:
        """The weights after one step, by name; the model itself does not change.

        Args:
            gradients: of the unweighted loss over this process's part of the batch, in the order of `parameters`.
            lr: the learning rate of the model's own step.
        """
        used = [
            torch.zeros_like(own) if grad is None else grad
            for grad, own in zip(gradients, self.parameters, strict=True)
        ]
        if process_count() > 1:
            used = [grad.clone() for grad in used]
            average(used)
        used = list(torch._foreach_mul(used, self._scale_and_clip(used)))
        moved = [own.clone() for own in self.parameters]
        settings, decaying = self.settings, [decayed(parameter) for parameter in self.parameters]
        for decays in (True, False):
            params, grads, means, squares, steps = (
                list(compress(tensors, [which is decays for which in decaying]))
                for tensors in (moved, used, self.mean, self.square, self.steps)
            )
            adam(
                *(params, grads, means, squares, [], steps),
                fused=True,
                decoupled_weight_decay=settings.optimiser == "adamw",
                amsgrad=False,
                beta1=settings.betas[0],
                beta2=settings.betas[1],
                lr=lr,
                weight_decay=settings.weight_decay if decays else 0.0,
                eps=settings.eps,
                maximize=False,
            )
        return dict(zip(self.names, moved, strict=True))

    def _scale_and_clip(self, gradients: list[Tensor]) -> Tensor:
        """The factor that scales and then clips as `clip_grad_norm_`: in one pass, without waiting for the device."""
        norm = self.gradient_scale * torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return self.gradient_scale * (self.settings.clip / (norm + 1e-6)).clamp(max=1.0)

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict()`."""
        for own, saved in ((self.mean, state["mean"]), (self.square, state["square"]), (self.steps, state["steps"])):
            for target, source in zip(own, saved, strict=True):
                target.copy_(source)
