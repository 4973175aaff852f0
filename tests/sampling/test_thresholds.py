"""GloFND's thresholds against Adam written out, one anchor at a time."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.sampling.thresholds import Thresholds, quantile_of_candidates, share_above


def test_they_move_by_adam_with_the_epoch_s_correction() -> None:
    thresholds = Thresholds(3)
    value, mean, square = [1.0] * 3, [0.0] * 3, [0.0] * 3
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        ids_B = torch.tensor([[0, 1], [2, 0], [1, 2]][step % 3])
        above_B, epoch = torch.rand(2, generator=generator) / 2, step // 2
        thresholds.update(ids_B, above_B, 0.3, epoch)
        for i, above in zip(ids_B.tolist(), above_B.tolist(), strict=True):
            mean[i] = 0.9 * mean[i] + 0.1 * (0.3 - above)
            square[i] = 0.98 * square[i] + 0.02 * (0.3 - above) ** 2
            move = mean[i] / (1 - 0.9 ** (epoch + 1)) / (math.sqrt(square[i] / (1 - 0.98 ** (epoch + 1))) + 1e-8)
            value[i] = min(1.0, max(-1.0, value[i] - 0.05 * move))
    assert thresholds.value_N.tolist() == pytest.approx(value, abs=1e-6)
    assert all(-1 < each < 1 for each in value)


def test_an_anchor_that_is_twice_in_a_batch_moves_once_by_its_mean() -> None:
    twice, once = Thresholds(2), Thresholds(2)
    twice.update(torch.tensor([1, 0, 1]), torch.tensor([0.9, 0.0, 0.1]), 0.2, 0)
    once.update(torch.tensor([1, 0]), torch.tensor([0.5, 0.0]), 0.2, 0)
    torch.testing.assert_close(twice.state_dict(), once.state_dict())


def test_they_settle_where_the_share_is_above() -> None:
    """Of similarities spread evenly over [0, 1], a tenth is above 0.9."""
    thresholds = Thresholds(1)
    for step in range(400):
        similarity_BC = torch.rand(1, 64, generator=torch.Generator().manual_seed(step))
        above_B = share_above(similarity_BC, torch.zeros(1, 64, dtype=torch.bool), thresholds.value_N)
        thresholds.update(torch.tensor([0]), above_B, 0.1, 50)
    assert thresholds.value_N.item() == pytest.approx(0.9, abs=0.06)


def test_the_share_is_of_what_may_be_a_negative() -> None:
    similarity_BC = torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.9] * 4])
    excluded_BC = torch.tensor([[True, False, False, False], [True] * 4])
    assert share_above(similarity_BC, excluded_BC, torch.tensor([0.5, 0.5])).tolist() == pytest.approx([1 / 3, 0])


def test_the_quantile_leaves_its_share_above() -> None:
    similarity_BC = torch.rand(5, 40, generator=torch.Generator().manual_seed(0))
    excluded_BC = torch.rand(5, 40, generator=torch.Generator().manual_seed(1)) < 0.3
    excluded_BC[4] = True
    quantile_B = quantile_of_candidates(similarity_BC, excluded_BC, 0.2)
    above_B = share_above(similarity_BC, excluded_BC, quantile_B)
    offered_B = (~excluded_BC).sum(dim=1)
    assert (above_B * offered_B).tolist() == pytest.approx([int(0.2 * int(count)) for count in offered_B])
    assert quantile_B[4] == 1


def test_they_may_begin_at_the_batch_s_quantile_without_moments() -> None:
    thresholds = Thresholds(3)
    thresholds.begin(torch.tensor([2, 0, 2]), torch.tensor([0.4, 0.5, 0.6]))
    assert thresholds.value_N.tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert not thresholds.mean_N.any() and not thresholds.square_N.any()
