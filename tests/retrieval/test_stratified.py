"""Totals from a sample within strata: their intervals hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.retrieval.stratified import expected_total, stratified_total


@pytest.mark.parametrize(
    ("size", "share"),
    [
        ([20_000, 400, 100], [0.02, 0.4, 0.9]),
        ([28_000, 900, 400, 250, 200, 250], [0.0, 0.0, 0.01, 0.02, 0.03, 0.05]),  # hardly anything to find
        ([1_000, 1_500, 6_000], [0.98, 0.99, 1.0]),  # a good list
        ([12, 6, 5], [0.1, 0.5, 0.7]),
    ],
)
@pytest.mark.parametrize("answers", [2, 5, 10])
def test_the_interval_holds_the_true_total_nineteen_times_in_twenty(
    size: list[int], share: list[float], answers: int
) -> None:
    draw, size_H = np.random.default_rng(0), np.array(size)
    true_H, asked_H = np.round(size_H * share).astype(int), np.minimum(answers, size_H)
    held = 0
    for trial in range(40):
        found = stratified_total(size_H, asked_H, draw.hypergeometric(true_H, size_H - true_H, asked_H), seed=trial)
        held += found.low <= true_H.sum() <= found.high
    assert held >= 38


def test_answers_of_one_kind_reach_the_end_of_the_interval() -> None:
    assert stratified_total([28_000, 900, 250], [4, 3, 3], [0, 0, 0])[:2] == (0, 0)
    assert stratified_total([28_000, 900, 250], [4, 3, 3], [4, 3, 3])[::2] == (29_150, 29_150)


def test_all_answers_are_the_total() -> None:
    assert stratified_total([6, 3], [6, 3], [2, 3]) == (5, 5, 5)


def test_more_answers_make_it_narrow() -> None:
    few, many = (stratified_total([1000], [asked], [asked // 5]) for asked in (10, 500))
    assert many.high - many.low < 60 < few.high - few.low
    assert few.value == many.value == 200


def test_without_an_answer_a_stratum_may_be_anything() -> None:
    assert stratified_total([100], [0], [0]) == (50, 0, 100)
    assert stratified_total([100, 10], [50, 5], [50, 5]).low > 90
    assert stratified_total([], [], []) == (0, 0, 0)


def test_the_expected_total_is_the_sum_and_its_variance_has_both_parts() -> None:
    probability, group = np.array([0.5, 0.5, 0.2, 1.0]), np.array([0, 0, 1, 2])
    found = expected_total(probability, group, 4)
    assert found.value == pytest.approx(2.2)
    sums = np.array([1.0, 0.2, 1.0, 0.0])
    variance = (0.25 + 0.25 + 0.16) + 4 * sums.var()
    assert found.high - found.value == pytest.approx(1.96 * variance**0.5)
    assert found.low == 0
