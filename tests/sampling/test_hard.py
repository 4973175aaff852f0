"""Weights that grow with the similarity, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.sampling.hard import annealed_count, hardest_weights_of, hardness_weights, hcl_weights

SIMILARITY = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
EXCLUDED = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.3
EXCLUDED[3] = True


def test_hcl_is_the_exponential_over_its_mean() -> None:
    slow = []
    for row, excluded in zip(SIMILARITY.tolist(), EXCLUDED.tolist(), strict=True):
        values = [math.exp(0.7 * s / 0.1) for s, x in zip(row, excluded, strict=True) if not x]
        mean = sum(values) / max(1, len(values))
        slow.append([0.0 if x else math.exp(0.7 * s / 0.1) / mean for s, x in zip(row, excluded, strict=True)])
    assert hcl_weights(SIMILARITY, EXCLUDED, 0.1, 0.7).tolist() == [pytest.approx(row) for row in slow]


def test_hcl_keeps_its_gradient_and_does_not_overflow() -> None:
    similarity_BC = SIMILARITY.float().requires_grad_()
    weights_BC = hcl_weights(similarity_BC, EXCLUDED, 0.01, 2.0)
    weights_BC.square().sum().backward()
    assert similarity_BC.grad is not None
    assert bool(weights_BC.isfinite().all() & similarity_BC.grad.isfinite().all() & (similarity_BC.grad != 0).any())


def test_hardness_is_the_exponential() -> None:
    slow = [
        [0.0 if x else math.exp(9 * s) for s, x in zip(row, excluded, strict=True)]
        for row, excluded in zip(SIMILARITY.tolist(), EXCLUDED.tolist(), strict=True)
    ]
    assert hardness_weights(SIMILARITY, EXCLUDED, 9.0).tolist() == [pytest.approx(row) for row in slow]


def test_decl_goes_from_all_to_the_hardest() -> None:
    similarity_BC = torch.tensor([[0.9, 0.1, 0.5, 0.7], [0.9, 0.1, 0.5, 0.7]])
    excluded_BC = torch.tensor([[True, False, False, False], [True, True, True, False]])
    counts = [annealed_count(4, step, 0.5, 2) for step in (0, 1, 2, 3, 100)]
    assert counts == [4, 3, 3, 2, 2]
    shown = [hardest_weights_of(similarity_BC, excluded_BC, count).tolist() for count in (4, 2, 9)]
    every, two = [[0, 1, 1, 1], [0, 0, 0, 1]], [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert shown == [every, two, every]
