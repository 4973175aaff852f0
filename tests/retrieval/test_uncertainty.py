"""The bootstrap against queries that are literally repeated, against theory, and paired."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.retrieval import uncertainty
from pipeline.retrieval.relevance import ranking_quality
from pipeline.retrieval.uncertainty import figures, intervals, paired_differences, quality_intervals


def query_table(
    i2t_N: np.ndarray, t2i_M: np.ndarray, image_M: np.ndarray, fold_N: np.ndarray | None = None
) -> pandas.DataFrame:
    images = np.arange(len(i2t_N))
    fold_N = np.zeros_like(images) if fold_N is None else fold_N
    image = np.concatenate([images, image_M])
    return pandas.DataFrame(
        {
            "direction": ["i2t"] * len(images) + ["t2i"] * len(image_M),
            "query": np.concatenate([images, np.arange(len(image_M))]),
            "image": image,
            "fold": fold_N[image],
            "rank": np.concatenate([i2t_N, t2i_M]),
        }
    )


def random_table(images: int, seed: int, deepest: int = 30, folds: int = 1) -> pandas.DataFrame:
    """One to three captions an image; some queries with graded figures, against two sources."""
    generator = np.random.default_rng(seed)
    image_M = np.repeat(np.arange(images), generator.integers(1, 4, images))
    fold_N = np.arange(images) * folds // images
    i2t_N, t2i_M = (generator.integers(0, deepest, count) for count in (images, len(image_M)))
    queries = query_table(i2t_N, t2i_M, image_M, fold_N)
    for column in ("mAP@R", "R-P", "mAP@R_expert"):
        value = generator.uniform(0, 100, len(queries))
        queries[column] = np.where(generator.random(len(queries)) < 0.7, value, np.nan)
    queries.loc[[0, images], ["mAP@R", "R-P", "mAP@R_expert"]] = 50.0  # image 0 is known to all of them
    return queries


@given(images=st.integers(1, 12), folds=st.integers(1, 3), seed=st.integers(0, 999))
@settings(max_examples=40)
def test_an_image_that_counts_twice_is_as_good_as_there_twice_with_its_captions(
    images: int, folds: int, seed: int
) -> None:
    queries = random_table(images, seed, folds=min(folds, images))
    count_N = np.random.default_rng(seed).integers(1, 4, images)
    repeated = queries.loc[queries.index.repeat(count_N[queries["image"]])]
    expected: dict[str, float] = {}
    for direction in ("i2t", "t2i"):
        mine = repeated[repeated["direction"] == direction]
        for cutoff in (1, 5, 10):
            shares = [100 * (fold["rank"] < cutoff).mean() for _, fold in mine.groupby("fold")]
            expected[f"{direction}/R{cutoff}"] = float(np.mean(shares))
        medians = [np.floor(np.median(fold["rank"])) + 1 for _, fold in mine.groupby("fold")]
        expected[f"{direction}/median_rank"] = float(np.mean(medians))
        expected[f"truth/{direction}/mAP@R"] = mine["mAP@R"].mean()
        expected[f"truth/{direction}/R-P"] = mine["R-P"].mean()
        expected[f"truth_expert/{direction}/mAP@R"] = mine["mAP@R_expert"].mean()
    expected["rsum"] = sum(value for name, value in expected.items() if name.split("/")[1] in {"R1", "R5", "R10"})
    assert figures(queries, count_N) == pytest.approx(expected)


@pytest.mark.parametrize("at_once", [0, 7, 50])  # of 50: one by one, with a rest, all
def test_the_seed_decides_and_memory_does_not(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    queries = random_table(20, seed=5)
    first = intervals(queries, replicates=50, seed=1)
    monkeypatch.setattr(uncertainty, "BLOCK_ENTRIES", at_once * len(queries))
    again = intervals(queries, replicates=50, seed=1)
    assert {name: pytest.approx(interval) for name, interval in again.items()} == first
    assert intervals(queries, replicates=50, seed=2)["rsum"] != first["rsum"]


def test_without_replicates_there_are_no_intervals() -> None:
    assert intervals(random_table(3, seed=1), replicates=0, seed=1) == {}


def test_an_interval_of_independent_queries_is_as_wide_as_theory_says() -> None:
    generator = np.random.default_rng(0)
    ranks = generator.choice([0, 20], p=[0.3, 0.7], size=1000)
    found = intervals(query_table(ranks, ranks, np.arange(1000)), replicates=1000, seed=1)["i2t/R1"]
    share = (ranks == 0).mean()
    assert found.high - found.low == pytest.approx(100 * 2 * 1.96 * np.sqrt(share * (1 - share) / 1000), rel=0.1)
    assert found.low < 100 * share < found.high


def test_captions_of_one_image_that_agree_are_one_witness() -> None:
    """Five captions an image with one fate say as much as one caption an image."""
    fate = np.random.default_rng(0).choice([0, 20], size=200)
    alone = intervals(query_table(fate, fate, np.arange(200)), replicates=300, seed=1)["t2i/R1"]
    five = intervals(query_table(fate, fate.repeat(5), np.arange(200).repeat(5)), replicates=300, seed=1)["t2i/R1"]
    assert five == pytest.approx(alone)


def test_every_fold_keeps_its_size() -> None:
    """Ranks differ between folds and not within: no resampling can change a mean over folds."""
    fold_N = np.repeat([0, 1], [10, 10])
    queries = query_table(fold_N * 20, fold_N * 20, np.arange(20), fold_N)
    assert intervals(queries, replicates=50, seed=1)["i2t/R1"] == (50.0, 50.0)


def test_a_run_does_not_differ_from_itself_however_its_rows_are_ordered() -> None:
    queries = random_table(20, seed=5)
    shuffled = queries.sample(frac=1, random_state=1)
    for difference in paired_differences([queries], [shuffled], replicates=50, seed=1).values():
        assert difference == pytest.approx((0, 0, 0))


def test_on_the_same_queries_a_small_gain_shows_that_two_intervals_would_hide() -> None:
    ranks = np.random.default_rng(0).choice([0, 20], size=400)
    better = ranks.copy()
    better[np.flatnonzero(ranks)[:12]] = 0  # twelve queries mended, none broken
    queries, baseline = (query_table(found, found, np.arange(400)) for found in (better, ranks))
    difference = paired_differences([queries], [baseline], replicates=500, seed=1)["i2t/R1"]
    assert difference.value == pytest.approx(3.0)
    assert 0 < difference.low < 3 < difference.high
    mine, others = (intervals(found, replicates=500, seed=1)["i2t/R1"] for found in (queries, baseline))
    assert mine.low < others.high


def test_a_difference_is_that_of_the_replicates_with_one_draw_for_both() -> None:
    one, other = random_table(15, seed=1), random_table(15, seed=1)
    other["rank"] = other["rank"][::-1].to_numpy()
    found = paired_differences([one], [other], replicates=40, seed=3)["rsum"]
    generator = np.random.default_rng(3)
    slow = []
    for _ in range(40):
        count_N = np.bincount(generator.integers(15, size=15), minlength=15)
        slow.append(figures(one, count_N)["rsum"] - figures(other, count_N)["rsum"])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def ranked_anew(seed: int) -> pandas.DataFrame:
    """Of the same queries as every other one."""
    table = random_table(15, seed=1)
    table["rank"] = np.random.default_rng(seed).permutation(table["rank"].to_numpy())
    return table


def test_the_figures_of_several_seeds_are_averaged() -> None:
    runs = [ranked_anew(seed) for seed in (1, 2)]
    baselines = [ranked_anew(seed) for seed in (3, 4, 5)]
    found = paired_differences(runs, baselines, replicates=10, seed=1)["rsum"]
    means = [sum(figures(table)["rsum"] for table in side) / len(side) for side in (runs, baselines)]
    assert found.value == pytest.approx(means[0] - means[1])


def test_a_figure_that_one_run_lacks_is_not_compared() -> None:
    queries = random_table(10, seed=1)
    found = paired_differences([queries], [queries.drop(columns="mAP@R")], replicates=10, seed=1)
    assert "truth/i2t/R-P" in found
    assert "truth/i2t/mAP@R" not in found


@pytest.mark.parametrize("change", [{"fold": 1}, {"image": 0}])
def test_other_queries_are_no_pair(change: dict[str, int]) -> None:
    queries = random_table(10, seed=1)
    told = "^the runs were not judged on the same queries: another split, or other folds$"
    with pytest.raises(ValueError, match=told):
        paired_differences([queries], [queries.assign(**change)], replicates=10, seed=1)
    with pytest.raises(ValueError, match=told):
        paired_differences([queries], [queries[1:]], replicates=10, seed=1)


@pytest.mark.parametrize("seed", range(6))
def test_a_figure_that_no_replicate_knows_is_left_out(seed: int) -> None:
    queries = random_table(4, seed=1)
    queries["mAP@R"] = np.where(queries["image"] == 0, 50.0, np.nan)
    drawn = 0 in np.random.default_rng(seed).integers(4, size=4)
    assert ("truth/i2t/mAP@R" in intervals(queries, replicates=1, seed=seed)) == drawn
    assert ("truth/i2t/mAP@R" in paired_differences([queries], [queries], replicates=1, seed=seed)) == drawn


@pytest.mark.parametrize("decimals", [9, 0])
def test_intervals_of_a_scores_quality_are_those_of_sorting_every_replicate_anew(decimals: int) -> None:
    generator = np.random.default_rng(0)
    image_P = np.arange(40).repeat(50)
    true_P = generator.random(2000) < 0.1
    score_P = (generator.normal(size=2000) + true_P).round(decimals)  # without decimals, most scores are ties
    found = quality_intervals(score_P, true_P, image_P, replicates=200, seed=1)
    draws = np.random.default_rng(1)
    slow = []
    for _ in range(200):
        drawn = np.concatenate([np.flatnonzero(image_P == image) for image in draws.integers(40, size=40)])
        slow.append(ranking_quality(torch.from_numpy(score_P[drawn]), torch.from_numpy(true_P[drawn])))
    for name in ("auc", "ap"):
        expected = np.quantile([quality[name] for quality in slow], [0.025, 0.975])
        assert found[name] == pytest.approx(tuple(expected), abs=0.005)
