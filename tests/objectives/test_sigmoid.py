"""The sigmoid loss against its formula."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.objectives.sigmoid import sigmoid_loss

GENERATOR = torch.Generator().manual_seed(0)
SIMILARITY, WEIGHTS, MARGINS = (torch.rand(3, 4, generator=GENERATOR, dtype=torch.float64) for _ in range(3))
OWN, TARGETS = (torch.rand(shape, generator=GENERATOR, dtype=torch.float64) for shape in ((3,), (3, 5)))


def softplus(z: float) -> float:
    return math.log(1 + math.exp(z))


@pytest.mark.parametrize("given", [False, True])
def test_it_is_the_sum_over_the_own_pair_and_the_candidates(given: bool) -> None:
    slow = []
    for b in range(3):
        z = float(OWN[b]) / 0.2 - 1.5
        q = float(TARGETS[b, 0]) if given else 1.0
        total = q * softplus(-z) + (1 - q) * softplus(z)
        for c in range(4):
            m, q = (float(MARGINS[b, c]), float(TARGETS[b, 1 + c])) if given else (0.0, 0.0)
            z = (float(SIMILARITY[b, c]) + m) / 0.2 - 1.5
            total += q * softplus(-z) + float(WEIGHTS[b, c]) * (1 - q) * softplus(z)
        slow.append(total)
    how = {"targets": TARGETS, "margins": MARGINS} if given else {}
    assert sigmoid_loss(SIMILARITY, OWN, WEIGHTS, 0.2, -1.5, **how).tolist() == pytest.approx(slow, abs=1e-12)


def test_with_the_diagonal_as_own_pairs_it_is_siglips() -> None:
    similarity_BB = torch.rand(5, 5, generator=GENERATOR)
    sign_BB = 2 * torch.eye(5) - 1
    expected = -torch.nn.functional.logsigmoid(sign_BB * (10 * similarity_BB - 10)).sum() / 5
    loss_B = sigmoid_loss(similarity_BB, similarity_BB.diagonal(), 1 - torch.eye(5), 0.1, -10.0)
    torch.testing.assert_close(loss_B.mean(), expected)
