"""The momentum model follows the trained one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.models.momentum import momentum_copy, update_momentum


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def trained(model: nn.Module) -> nn.Module:
    """The same model after some training: other weights, other running figures."""
    other = copy.deepcopy(model).train()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
        other(torch.randn(8, 3))
    return other


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.995])
def test_each_weight_moves_by_the_formula(model: nn.Module, momentum: float) -> None:
    averaged, other = momentum_copy(model), trained(model)
    before = [parameter.clone() for parameter in averaged.parameters()]
    update_momentum(averaged, other, momentum)
    for now, then, source in zip(averaged.parameters(), before, other.parameters(), strict=True):
        torch.testing.assert_close(now, momentum * then + (1 - momentum) * source)


def test_buffers_are_copied(model: nn.Module) -> None:
    averaged, other = momentum_copy(model), trained(model)
    update_momentum(averaged, other, 0.9)
    for (name, now), source in zip(averaged.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(now, source), name


def test_it_starts_as_a_copy_of_its_own(model: nn.Module) -> None:
    averaged = momentum_copy(model)
    for now, source in zip(averaged.parameters(), model.parameters(), strict=True):
        assert torch.equal(now, source)
        assert now.data_ptr() != source.data_ptr()


def test_it_takes_no_gradient_and_drops_nothing_out(model: nn.Module) -> None:
    averaged = momentum_copy(model.train())
    update_momentum(averaged, trained(model), 0.5)
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    assert not any(part.training for part in averaged.modules())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_without_parameters_is_left_alone() -> None:
    update_momentum(momentum_copy(nn.Identity()), nn.Identity(), 0.9)
