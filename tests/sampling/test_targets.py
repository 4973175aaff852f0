"""Target distributions, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.objectives.sigmoid import sigmoid_loss
from pipeline.sampling.targets import (
    distilled_targets,
    mixed_with_own,
    pseudo_positive_targets,
    same_image_targets,
    soft_targets,
    transported,
)

POSITIVE = torch.tensor([[True, False, True, False], [False] * 4])
SIMILARITY = torch.rand(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_image_s_captions_share_the_target() -> None:
    third = 1 / 3
    assert same_image_targets(POSITIVE).tolist() == [
        pytest.approx([third, third, 0, third, 0]),
        pytest.approx([1, 0, 0, 0, 0]),
    ]


def test_momentum_distillation_mixes_the_softmax_of_the_momentum_towers() -> None:
    momentum_BT = SIMILARITY.clone()
    momentum_BT[0, 4] = -torch.inf
    slow = []
    image_s = [[1 / 3, 1 / 3, 0.0, 1 / 3, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]
    for row, named in zip(momentum_BT.tolist(), image_s, strict=True):
        total = sum(math.exp(s / 0.2) for s in row)
        slow.append([0.6 * p + 0.4 * math.exp(s / 0.2) / total for p, s in zip(named, row, strict=True)])
    found = distilled_targets(momentum_BT, POSITIVE, 0.2, 0.4)
    assert found.tolist() == [pytest.approx(row, abs=1e-6) for row in slow]


def test_pseudo_positives_give_the_sum_of_two_cross_entropies() -> None:
    """PCME++: the first with the own pair as the only positive, plus α times one with what is as similar as it."""
    similarity_BC, own_B = SIMILARITY[:, 1:], torch.tensor([0.5, 0.3], dtype=torch.float64)
    eligible_BC = torch.ones(2, 4, dtype=torch.bool)
    named_BT = pseudo_positive_targets(similarity_BC, own_B, eligible_BC, 0.1)
    torch.testing.assert_close(named_BT.sum(dim=1), torch.ones(2, dtype=torch.float64))
    relative_BT = named_BT / named_BT[:, :1]
    pseudo_BC = (similarity_BC >= own_B[:, None]).double()
    assert 0 < pseudo_BC.sum() < 8
    weights_BC = torch.ones_like(similarity_BC)

    def loss(labels_BC: torch.Tensor) -> torch.Tensor:
        with_own = torch.cat([torch.ones(2, 1, dtype=torch.float64), labels_BC], dim=1)
        return sigmoid_loss(similarity_BC, own_B, weights_BC, 0.2, -2.0, targets=with_own)

    published_B = loss(torch.zeros_like(pseudo_BC)) + 0.1 * loss(pseudo_BC)
    found_B = sigmoid_loss(similarity_BC, own_B, weights_BC, 0.2, -2.0, targets=relative_BT)
    torch.testing.assert_close(1.1 * found_B, published_B)
    none_BT = pseudo_positive_targets(similarity_BC, own_B, ~eligible_BC, 0.1)
    assert none_BT.tolist() == [[1, 0, 0, 0, 0]] * 2


def test_soft_targets_are_a_softmax_over_what_is_a_candidate() -> None:
    evidence_BT = torch.tensor([[1.0, 0.5, -torch.inf]])
    total = math.exp(1 / 0.3) + math.exp(0.5 / 0.3)
    slow = [math.exp(1 / 0.3) / total, math.exp(0.5 / 0.3) / total, 0.0]
    assert soft_targets(evidence_BT, 0.3)[0].tolist() == pytest.approx(slow)


def test_the_plan_is_sinkhorn_s() -> None:
    similarity_BB = torch.rand(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plan = [[math.exp(s / 0.1) for s in row] for row in similarity_BB.tolist()]
    for _ in range(50):
        for j in range(4):
            column = sum(plan[i][j] for i in range(4))
            for i in range(4):
                plan[i][j] /= column
        plan = [[value / sum(row) for value in row] for row in plan]
    found_BB = transported(similarity_BB, 0.1)
    assert found_BB.tolist() == [pytest.approx(row) for row in plan]
    torch.testing.assert_close(found_BB.sum(dim=0), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-3)


def test_the_plan_is_mixed_with_the_own_pair() -> None:
    mixed_BT = mixed_with_own(torch.tensor([[0.4, 0.1, 0.0]]), 0.3)
    assert mixed_BT[0].tolist() == pytest.approx([0.7 + 0.3 * 0.8, 0.3 * 0.2, 0.0])
