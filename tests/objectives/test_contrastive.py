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


def test_with_targets_and_margins_it_is_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(2)
    similarity_BC, weights_BC, margins_BC = (
        torch.rand(3, 4, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    own_B = torch.rand(3, generator=generator, dtype=torch.float64)
    targets = torch.rand(3, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    slow = []
    for b in range(3):
        total, attracted = (own_B[b] / 0.3).exp(), targets[b, 0] * own_B[b] / 0.3
        for c in range(4):
            total = total + weights_BC[b, c] * ((similarity_BC[b, c] + margins_BC[b, c]) / 0.3).exp()
            attracted = attracted + targets[b, 1 + c] * similarity_BC[b, c] / 0.3
        slow.append(float(total.log() - attracted))
    found_B = infonce_loss(similarity_BC, own_B, weights_BC, 0.3, targets=targets, margins=margins_BC)
    assert found_B.tolist() == pytest.approx(slow, abs=1e-12)
    own = torch.eye(5, dtype=torch.float64)[:1].expand(3, 5)
    plain_B = infonce_loss(similarity_BC, own_B, weights_BC, 0.3)
    torch.testing.assert_close(infonce_loss(similarity_BC, own_B, weights_BC, 0.3, targets=own), plain_B)


def test_a_gradient_through_the_weights_is_finite_where_they_are_zero() -> None:
    similarity_BC = torch.tensor([[0.3, 0.9, -1.0]], dtype=torch.float64, requires_grad=True)

    def loss(similarity_BC: torch.Tensor) -> torch.Tensor:
        weights_BC = (2 * similarity_BC).exp() * torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        return infonce_loss(similarity_BC, torch.tensor([0.5]).double(), weights_BC, 0.5)

    assert torch.autograd.gradcheck(loss, similarity_BC)
    weights_BC, own_B = torch.tensor([[1.0, 0.0]]), torch.tensor([-0.9])
    plain_B = infonce_loss(torch.tensor([[-0.9, 0.9]]), own_B, weights_BC, 0.01)
    torch.testing.assert_close(
        infonce_loss(torch.tensor([[-0.9, 0.9]]), own_B, weights_BC.requires_grad_(), 0.01), plain_B
    )
