"""Differences of runs: right on average, and as unsure as they are."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest

from pipeline.comparison.paired import Difference, over_queries, over_seeds, wider
from pipeline.retrieval.uncertainty import figures


def queries(seed: int, shift: float, images: int = 300) -> pandas.DataFrame:
    """Images of their own difficulty, the same for every seed, a caption each; a run finds them `shift` harder."""
    hard = np.random.default_rng(0).exponential(6, size=images)
    noise = np.random.default_rng(seed).exponential(1, size=(2, images))
    parts = [
        {
            "direction": side,
            "query": range(images),
            "image": range(images),
            "fold": 0,
            "rank": np.floor(hard + noise[n] + shift),
        }
        for n, side in enumerate(("i2t", "t2i"))
    ]
    return pandas.concat([pandas.DataFrame(part) for part in parts]).astype({"rank": "int64"})


def test_the_difference_is_that_of_the_means_over_seeds() -> None:
    ours, theirs = [queries(1, 0), queries(2, 0)], [queries(3, 1), queries(4, 1)]
    found = over_queries(ours, theirs)["test/rsum"]
    rsums = [np.mean([figures(table)["rsum"] for table in side]) for side in (ours, theirs)]
    assert found.value == pytest.approx(rsums[0] - rsums[1])
    assert found.low < found.value < found.high
    assert found.method == "queries"


def test_the_interval_is_that_of_an_obvious_bootstrap() -> None:
    ours, theirs = queries(1, 0), queries(2, 1)
    found = over_queries([ours], [theirs])["test/i2t/R5"]
    generator = np.random.default_rng(99)
    hits = [(table[table["direction"] == "i2t"]["rank"] < 5).to_numpy() for table in (ours, theirs)]
    sample = []
    for _ in range(4000):
        drawn = generator.integers(300, size=300)
        sample.append(100 * (hits[0][drawn].mean() - hits[1][drawn].mean()))
    assert [found.low, found.high] == pytest.approx(np.quantile(sample, [0.025, 0.975]), abs=0.6)


def test_equal_runs_differ_by_nothing_for_sure() -> None:
    assert over_queries([queries(1, 0)], [queries(1, 0)])["test/rsum"][:4] == (0, 0, 0, "queries")


def test_runs_on_other_queries_have_no_paired_difference() -> None:
    assert over_queries([queries(1, 0)], [queries(1, 0, images=299)]) == {}


def test_the_interval_over_seeds_is_students() -> None:
    found = over_seeds([10, 12, 14], [9, 9, 9])
    assert found.value == 3
    half = 4.302652729749 * 2 / math.sqrt(3)  # t of two degrees of freedom
    assert [found.low, found.high] == pytest.approx([3 - half, 3 + half])
    assert over_seeds([10], [9])[0] == 1
    assert over_seeds([10], [9]).method == "none"


def test_the_wider_of_both_intervals_decides() -> None:
    queries, seeds = Difference(1, 0.5, 1.5, "queries"), Difference(1, -1, 3, "seeds")
    found = wider(queries, seeds)
    assert found == (1, -1, 3, "seeds", (0.5, 1.5))
    assert not found.leaves_zero, "sure for these seeds, not for others"
    assert wider(queries, Difference(1, 0.9, 1.1, "seeds")) == (1, 0.5, 1.5, "queries", (0.9, 1.1))
    assert wider(queries, over_seeds([10], [9])) == queries
    assert queries.leaves_zero and Difference(-1, -2, -0.5, "seeds").leaves_zero
