"""The siamese model A' of NPC: one optimiser step beside the model.

A' equals the model at the beginning of every step and is forgotten at its end; what it keeps are its optimiser's
moments (Zhang, Li and Ye 2024, section "negative impact"; methods in docs/methods.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.params import TrainParams
from pipeline.training.optimiser import make_optimiser
from pipeline.training.processes import average, process_count


class Siamese:
    """An optimiser's step from the model's weights, as tensors for `torch.func.functional_call`.

    Args:
        model: whose weights it starts from.
        settings: the optimiser's; its moments are its own.
        gradient_scale: 2 reproduces NPC's published code, which back-propagates twice.
    """

    def __init__(self, model: nn.Module, settings: TrainParams, gradient_scale: float) -> None:
        """Begin with empty moments."""
        self.clip, self.gradient_scale = settings.clip, gradient_scale
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters: list[Tensor] = list(model.parameters())
        self.moved = nn.ParameterList(parameter.detach().clone() for parameter in self.parameters)
        self.optimiser = make_optimiser(self.moved, settings)

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor | None, ...], lr: float) -> dict[str, Tensor]:
        """The weights one step on, by name, until the next step; the model's own stay as they are.

        Args:
            gradients: of the plain loss, in the order of the model's parameters, on this process's part of the batch.
            lr: the learning rate of the model's own step.
        """
        found = [
            torch.zeros_like(own) if grad is None else grad
            for grad, own in zip(gradients, self.parameters, strict=True)
        ]
        if process_count() > 1:
            found = [grad.clone() for grad in found]
            average(found)
        # as `clip_grad_norm_`, without waiting for the device, and in one pass with the scale
        norm = self.gradient_scale * torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)))
        factor = self.gradient_scale * (self.clip / (norm + 1e-6)).clamp(max=1.0)
        moved: list[Tensor] = list(self.moved)
        torch._foreach_copy_(moved, self.parameters)
        for target, gradient in zip(moved, torch._foreach_mul(found, factor), strict=True):
            target.grad = gradient
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.optimiser.zero_grad()
        return dict(zip(self.names, moved, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's: moments and step counts."""
        return self.optimiser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.optimiser.load_state_dict(state)
