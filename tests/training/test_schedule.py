"""The learning rate by epoch."""

from __future__ import annotations

import pytest

from pipeline.training.schedule import learning_rate


def test_each_milestone_takes_the_rate_to_a_tenth_before_its_epoch() -> None:
    rates = [learning_rate(2e-5, [5, 15], epoch) for epoch in (0, 4, 5, 14, 15, 24)]
    assert rates == pytest.approx([2e-5, 2e-5, 2e-6, 2e-6, 2e-7, 2e-7])


def test_without_milestones_it_stays() -> None:
    assert learning_rate(0.1, [], 100) == 0.1


def test_the_order_of_milestones_does_not_matter() -> None:
    assert learning_rate(1, [15, 5], 7) == learning_rate(1, [5, 15], 7)
