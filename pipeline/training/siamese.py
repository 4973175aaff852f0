"""The siamese model A' of NPC: one optimiser step beside the model, without a copy of it.

A' equals the model at the beginning of every step and is forgotten at its end; what it keeps are its optimiser's
moments (Zhang, Li and Ye 2024, section "negative impact"; methods in docs/methods.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.params import TrainParams
from pipeline.training.optimiser import decayed
from pipeline.training.processes import average


class Siamese:
    """Adam's (or AdamW's) step from the model's weights, as new tensors for `torch.func.functional_call`.

    Args:
        model: whose weights it starts from.
        settings: the optimiser's; its moments are its own.
        gradient_scale: 2 reproduces NPC's published code, which back-propagates twice.
    """

    def __init__(self, model: nn.Module, settings: TrainParams, gradient_scale: float) -> None:
        """Begin with empty moments."""
        self.settings, self.gradient_scale = settings, gradient_scale
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters: list[Tensor] = list(model.parameters())
        self.mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor | None, ...], lr: float) -> dict[str, Tensor]:
        """The weights one step on, by name; the model's own stay as they are.

        Args:
            gradients: of the plain loss, in the order of the model's parameters, on this process's part of the batch.
            lr: the learning rate of the model's own step.
        """
        used = [
            torch.zeros_like(own) if grad is None else grad.clone()
            for grad, own in zip(gradients, self.parameters, strict=True)
        ]
        average(used)
        torch._foreach_mul_(used, self.gradient_scale)
        self._clip(used)
        settings, (first, second) = self.settings, self.settings.betas
        self.steps += 1
        decay = [settings.weight_decay if decayed(parameter) else 0.0 for parameter in self.parameters]
        if settings.optimiser == "adam":
            used = [grad.add(own, alpha=share) for grad, own, share in zip(used, self.parameters, decay, strict=True)]
        torch._foreach_lerp_(self.mean, used, 1 - first)
        torch._foreach_mul_(self.square, second)
        torch._foreach_addcmul_(self.square, used, used, 1 - second)
        root = list(torch._foreach_sqrt(self.square))
        torch._foreach_div_(root, (1 - second**self.steps) ** 0.5)
        torch._foreach_add_(root, settings.eps)
        kept = [1 - lr * share if settings.optimiser == "adamw" else 1.0 for share in decay]
        moved = list(torch._foreach_mul(self.parameters, kept))
        torch._foreach_addcdiv_(moved, self.mean, root, -lr / (1 - first**self.steps))
        return dict(zip(self.names, moved, strict=True))

    def _clip(self, gradients: list[Tensor]) -> None:
        """As `clip_grad_norm_`, without waiting for the device."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (self.settings.clip / (norm + 1e-6)).clamp(max=1.0))

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for own, saved in ((self.mean, state["mean"]), (self.square, state["square"])):
            for target, source in zip(own, saved, strict=True):
                target.copy_(source)
        self.steps = int(state["steps"])
