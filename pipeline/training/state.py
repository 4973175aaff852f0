"""Everything that a training's next step depends on, as a checkpoint holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Progress:
    """The position of a training: what a checkpoint holds in addition to the tensors."""

    epoch: int = 0
    batch: int = 0  # the next one of this epoch
    step: int = 0
    best_rsum: float = -1.0
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class TrainingState:
    """Position, random generators, and all objects with a state. It is saved only when every step has been recorded.

    Args:
        parts: objects with a `state_dict`, by name; None for those that this training lacks.
        device: of the tensors.
    """

    def __init__(self, parts: Mapping[str, Any], device: torch.device) -> None:
        """Begin at the first step."""
        self.at = Progress()
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._device = device

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, and lists and dicts of these."""
        state = {name: part.state_dict() for name, part in self._parts.items()} | {
            "generator": torch.get_rng_state(),
            # one string keeps the checkpoint's pickle short
            "progress": json.dumps(vars(self.at)),
        }
        if self._device.type == "cuda":
            state["device_generator"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["generator"])
        self.at = Progress(**json.loads(state["progress"]))
        if "device_generator" in state:
            torch.cuda.set_rng_state(state["device_generator"], self._device)
