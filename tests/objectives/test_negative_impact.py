"""NPC's losses, ratios and weights, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from pipeline.objectives.negative_impact import impact_ratio, impact_weights, pair_losses


def test_a_pair_loss_is_the_mean_of_both_directions_cross_entropies() -> None:
    image, text = (normalize(torch.randn(6, 5, dtype=torch.float64), dim=1) for _ in range(2))
    logits = image @ text.T / 0.1
    rows = torch.arange(6)
    expected = (cross_entropy(logits, rows, reduction="none") + cross_entropy(logits.T, rows, reduction="none")) / 2
    torch.testing.assert_close(pair_losses(image, text, rows, 0.1), expected)


def test_pairs_of_one_image_are_no_negatives_of_each_other() -> None:
    image, text = (normalize(torch.randn(4, 5, dtype=torch.float64), dim=1) for _ in range(2))
    found = pair_losses(image, text, torch.tensor([7, 7, 8, 9]), 0.1)
    logits = image @ text.T / 0.1
    others = [0, 2, 3]  # the first pair's candidates: itself and the other images'
    expected = (
        cross_entropy(logits[0, others][None], torch.tensor([0]))
        + cross_entropy(logits[others, 0][None], torch.tensor([0]))
    ) / 2
    assert found[0].item() == pytest.approx(expected.item())


def test_a_ratio_averages_both_sides_and_a_weight_is_its_tanh_below_one() -> None:
    before_I, after_I = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 1.0])
    before_T, after_T = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 2.0, 3.0])
    ratio = impact_ratio(before_I, after_I, before_T, after_T)
    assert ratio.tolist() == [(0.5 + 0.25) / 2, 1.0, 2.0]
    assert impact_weights(ratio).tolist() == pytest.approx([math.tanh(0.375), 1, 1])


def test_a_loss_of_nothing_stays_a_number() -> None:
    zero, some = torch.zeros(1), torch.ones(1)
    assert impact_ratio(zero, zero, some, some).tolist() == [1]
    assert impact_weights(impact_ratio(some, zero, zero, some)).isfinite().all()
