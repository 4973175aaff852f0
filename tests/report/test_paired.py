"""Differences of runs: right on average, and as unsure as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.report.paired import over_queries, over_seeds

RSUM = [(direction, depth) for direction in ("i2t", "t2i") for depth in (1, 5, 10)]


def ranks(seed: int, shift: float, queries: int = 300) -> dict[str, np.ndarray]:
    """Queries of their own difficulty, the same for every seed; a run finds them `shift` harder."""
    hard = np.random.default_rng(0).exponential(6, size=queries)
    noise = np.random.default_rng(seed).exponential(1, size=(2, queries))
    return {side: np.floor(hard + noise[n] + shift).astype(np.int64) for n, side in enumerate(("i2t", "t2i"))}


def rsum(run: dict[str, np.ndarray]) -> float:
    return sum(100 * float((run[side] < depth).mean()) for side, depth in RSUM)


def test_the_difference_is_that_of_the_means() -> None:
    ours, theirs = [ranks(1, 0), ranks(2, 0)], [ranks(3, 1), ranks(4, 1)]
    found = over_queries(ours, theirs, RSUM)
    assert found is not None
    assert found.value == pytest.approx(np.mean([rsum(run) for run in ours]) - np.mean([rsum(run) for run in theirs]))
    assert found.low < found.value < found.high
    assert found.method == "queries"


def test_the_interval_is_that_of_an_obvious_bootstrap() -> None:
    ours, theirs = ranks(1, 0), ranks(2, 1)
    found = over_queries([ours], [theirs], [("i2t", 5)], resamples=4000)
    generator = np.random.default_rng(99)
    sample = []
    for _ in range(4000):
        drawn = generator.integers(300, size=300)
        sample.append(100 * ((ours["i2t"][drawn] < 5).mean() - (theirs["i2t"][drawn] < 5).mean()))
    assert found is not None
    assert [found.low, found.high] == pytest.approx(np.quantile(sample, [0.025, 0.975]), abs=0.6)


def test_equal_runs_differ_by_nothing_for_sure() -> None:
    assert over_queries([ranks(1, 0)], [ranks(1, 0)], RSUM) == (0, 0, 0, "queries")


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    runs = [ranks(1, 0)], [ranks(2, 1)]
    assert over_queries(*runs, RSUM) == over_queries(*runs, RSUM)
    assert over_queries(*runs, RSUM) != over_queries(*runs, RSUM, seed=2)


def test_runs_on_other_queries_have_no_paired_difference() -> None:
    assert over_queries([ranks(1, 0)], [ranks(1, 0, queries=299)], RSUM) is None


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds([10, 12, 14], [9, 9, 9])
    assert found.value == 3
    half = 4.302652729749 * 2 / math.sqrt(3)  # t of two degrees of freedom
    assert [found.low, found.high] == pytest.approx([3 - half, 3 + half])
    assert over_seeds([10], [9])[0] == 1
    assert over_seeds([10], [9]).method == "none"
