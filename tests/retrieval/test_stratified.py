"""Totals from a sample within strata: their intervals hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.retrieval.stratified import expected_total, stratified_total


def test_the_interval_holds_the_true_total_about_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(0)
    size, share = np.array([20_000, 400, 100]), np.array([0.02, 0.4, 0.9])
    held = 0
    for trial in range(200):
        asked = np.array([10, 10, 10])
        found = stratified_total(size, asked, draw.binomial(asked, share), seed=trial)
        held += found.low <= (size * share).sum() <= found.high
    assert held / 200 == pytest.approx(0.95, abs=0.05)


def test_without_an_answer_a_stratum_may_be_anything() -> None:
    assert stratified_total([100], [0], [0]).low < 2
    assert stratified_total([100], [0], [0]).high > 98
    found = stratified_total([100, 10], [50, 5], [50, 5])
    assert found.low > 90
    assert stratified_total([], [], []) == (0, 0, 0)


def test_the_expected_total_is_the_sum_and_its_variance_has_both_parts() -> None:
    probability, group = np.array([0.5, 0.5, 0.2, 1.0]), np.array([0, 0, 1, 2])
    found = expected_total(probability, group, 4)
    assert found.value == pytest.approx(2.2)
    sums = np.array([1.0, 0.2, 1.0, 0.0])
    variance = (0.25 + 0.25 + 0.16) + 4 * sums.var()
    assert found.high - found.value == pytest.approx(1.96 * variance**0.5)
    assert found.low == 0
