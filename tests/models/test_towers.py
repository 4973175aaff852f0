"""The model over both towers: what it owns besides its weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.models.towers import MatchingModel


@pytest.mark.parametrize(("scale", "temperature"), [(20, 0.05), (99, 1 / 99), (100, 0.01), (10_000, 0.01)])
def test_a_learned_temperature_does_not_fall_below_a_hundredth_and_has_a_gradient_there(
    scale: float, temperature: float
) -> None:
    model = MatchingModel(*(nn.Identity() for _ in range(4)), width=2, temperature=0.3)
    model.bound_temperature()
    assert model.temperature == 0.3
    model.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
    model.bound_temperature()
    found = model.temperature
    assert isinstance(found, torch.Tensor)
    assert found.item() == pytest.approx(temperature)
    found.backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(-temperature)
