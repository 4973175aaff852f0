"""InfoNCE with a weighed denominator."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.objectives.contrastive import infonce_loss


@given(seed=st.integers(0, 1000), temperature=st.floats(0.05, 2))
@settings(deadline=None)
def test_it_is_minus_the_log_of_the_own_pairs_share(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity_BC = torch.rand(3, 5, generator=generator, dtype=torch.float64) * 2 - 1
    own_B = torch.rand(3, generator=generator, dtype=torch.float64) * 2 - 1
    weights_BC = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    slow = []
    for own, row, weights in zip(own_B.tolist(), similarity_BC.tolist(), weights_BC.tolist(), strict=True):
        others = sum(w * math.exp(s / temperature) for s, w in zip(row, weights, strict=True))
        slow.append(-math.log(math.exp(own / temperature) / (math.exp(own / temperature) + others)))
    assert infonce_loss(similarity_BC, own_B, weights_BC, temperature).tolist() == pytest.approx(slow, abs=1e-12)


def test_with_the_diagonal_as_own_pair_it_is_cross_entropy() -> None:
    similarity_BB = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    loss_B = infonce_loss(similarity_BB, similarity_BB.diagonal(), 1 - torch.eye(6), 0.07)
    expected_B = torch.nn.functional.cross_entropy(similarity_BB / 0.07, torch.arange(6), reduction="none")
    torch.testing.assert_close(loss_B, expected_B)


def test_a_weight_of_zero_leaves_a_candidate_out() -> None:
    similarity_BC = torch.tensor([[0.3, 0.9, 0.1]])
    own_B = torch.tensor([0.5])
    without = infonce_loss(similarity_BC, own_B, torch.tensor([[1.0, 0.0, 1.0]]), 0.05)
    torch.testing.assert_close(without, infonce_loss(similarity_BC[:, [0, 2]], own_B, torch.ones(1, 2), 0.05))


def test_an_anchor_without_any_candidate_has_no_loss() -> None:
    assert infonce_loss(torch.rand(2, 3), torch.rand(2), torch.zeros(2, 3), 0.05).tolist() == [0, 0]


@pytest.mark.parametrize("temperature", [1e-3, 0.05])
def test_the_gradient_is_finite_where_weights_are_zero(temperature: float) -> None:
    similarity_BC = torch.tensor([[0.3, 0.9, -1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    own_B = torch.tensor([0.5, -1.0], requires_grad=True)
    weights_BC = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss_B = infonce_loss(similarity_BC, own_B, weights_BC, temperature)
    loss_B.sum().backward()
    assert similarity_BC.grad is not None and own_B.grad is not None
    assert bool(loss_B.isfinite().all() and similarity_BC.grad.isfinite().all() and own_B.grad.isfinite().all())
    assert similarity_BC.grad[weights_BC == 0].tolist() == [0, 0, 0, 0]
