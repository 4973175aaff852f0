"""The hinge on one negative, its mean over all that violate the margin, and over all that were taken."""

from __future__ import annotations

import pytest
import torch

from pipeline.objectives.triplet import mean_hinge_loss, mean_violation_loss, triplet_loss
from pipeline.sampling.hard import hardest_weights_of


def test_it_is_the_hinge_of_each_anchor() -> None:
    similarity_BC = torch.rand(6, 9, generator=torch.Generator().manual_seed(0))
    own_B = torch.rand(6, generator=torch.Generator().manual_seed(1))
    negative_B = torch.tensor([0, 3, 8, 2, 2, 5])
    slow = [
        max(0.0, 0.2 + float(similarity_BC[b, negative]) - float(own_B[b]))
        for b, negative in enumerate(negative_B.tolist())
    ]
    assert triplet_loss(similarity_BC, own_B, negative_B, 0.2).tolist() == pytest.approx(slow)


def test_the_gradient_pulls_the_positive_and_pushes_the_drawn_negative_only() -> None:
    similarity_BC = torch.tensor([[0.1, 0.6, 0.5], [0.0, 0.1, 0.2]], requires_grad=True)
    own_B = torch.tensor([0.7, 0.9], requires_grad=True)
    triplet_loss(similarity_BC, own_B, torch.tensor([1, 2]), 0.2).sum().backward()
    assert similarity_BC.grad is not None and own_B.grad is not None
    assert similarity_BC.grad.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert own_B.grad.tolist() == [-1, 0]


def test_the_mean_violation_is_over_the_candidates_that_violate_the_margin() -> None:
    generator = torch.Generator().manual_seed(2)
    similarity_BC, own_B = torch.rand(7, 10, generator=generator), torch.rand(7, generator=generator)
    weights_BC = torch.rand(7, 10, generator=generator) * (torch.rand(7, 10, generator=generator) < 0.6)
    slow = []
    for b in range(7):
        hinges = [max(0.0, 0.2 + float(similarity_BC[b, c] - own_B[b])) for c in range(10)]
        weights = [float(weights_BC[b, c]) if hinges[c] > 0 else 0.0 for c in range(10)]
        slow.append(sum(w * h for w, h in zip(weights, hinges, strict=True)) / sum(weights) if any(weights) else 0.0)
    assert mean_violation_loss(similarity_BC, own_B, weights_BC, 0.2).tolist() == pytest.approx(slow, rel=1e-5)


def test_the_mean_over_the_hardest_counts_those_that_keep_the_margin() -> None:
    """DECL's loss: the sum of the k largest hinges, zeros included, over k."""
    generator = torch.Generator().manual_seed(4)
    similarity_BC, own_B = torch.rand(5, 12, generator=generator), torch.rand(5, generator=generator)
    weights_BC = hardest_weights_of(similarity_BC, torch.zeros(5, 12, dtype=torch.bool), 8)
    hinges = [sorted(max(0.0, 0.2 + float(s - own_B[b])) for s in similarity_BC[b]) for b in range(5)]
    published = [sum(values[-8:]) / 8 for values in hinges]
    assert any(values[-8] == 0 < values[-1] for values in hinges)
    assert mean_hinge_loss(similarity_BC, own_B, weights_BC, 0.2).tolist() == pytest.approx(published, rel=1e-5)
    assert mean_hinge_loss(similarity_BC, own_B, torch.zeros(5, 12), 0.2).tolist() == [0] * 5


def test_an_anchor_that_nothing_violates_has_no_loss_and_a_finite_gradient() -> None:
    similarity_BC = torch.tensor([[0.1, 0.2], [0.9, 0.8]], requires_grad=True)
    weights_BC = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    loss_B = mean_violation_loss(similarity_BC, torch.tensor([0.9, 0.9]), weights_BC, 0.2)
    loss_B.sum().backward()
    assert loss_B.tolist() == [0, 0]
    assert similarity_BC.grad is not None
    assert similarity_BC.grad.tolist() == [[0, 0], [0, 0]]


def test_a_margin_of_each_candidate_is_its_own() -> None:
    similarity_BC, own_B = torch.tensor([[0.5, 0.1], [0.4, 0.3]]), torch.tensor([0.6, 0.5])
    margin_BC = torch.tensor([[0.3, 0.6], [0.05, 0.4]])
    drawn_B = triplet_loss(
        similarity_BC, own_B, torch.tensor([1, 0]), margin_BC.gather(1, torch.tensor([[1], [0]]))[:, 0]
    )
    assert drawn_B.tolist() == pytest.approx([0.1, 0.0])
    mean_B = mean_violation_loss(similarity_BC, own_B, torch.ones(2, 2), margin_BC)
    assert mean_B.tolist() == pytest.approx([(0.2 + 0.1) / 2, 0.2])
