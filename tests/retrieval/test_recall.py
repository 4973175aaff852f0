"""Recalls, median rank and folds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import folded_ranks, recall_at, recalls, retrieval_report


def test_recall_is_the_share_within_the_cutoff_in_percent() -> None:
    ranks = torch.tensor([0, 0, 1, 4, 5, 9, 10, 30])
    assert [recall_at(ranks, cutoff) for cutoff in (1, 5, 10)] == [25.0, 50.0, 75.0]


def test_rsum_is_the_sum_of_the_six_recalls() -> None:
    figures = recalls(torch.tensor([0, 3, 7, 20]), torch.tensor([0, 0, 4, 12]))
    assert figures == {
        "i2t_R1": 25.0,
        "i2t_R5": 50.0,
        "i2t_R10": 75.0,
        "t2i_R1": 50.0,
        "t2i_R5": 75.0,
        "t2i_R10": 75.0,
        "rsum": 350.0,
    }


def test_equal_hits_are_one_sum_to_the_last_digit() -> None:
    of_400, of_2000 = (63, 170, 244), (183, 739, 1092)  # the sum of these six recalls as floats is 219.95000000000002

    def ranks(hits: tuple[int, int, int], queries: int) -> torch.Tensor:
        return torch.tensor([(0, 4, 9, 10)[sum(row >= hit for hit in hits)] for row in range(queries)])

    assert recalls(ranks(of_400, 400), ranks(of_2000, 2000))["rsum"] == 219.95


def test_the_report_nests_the_same_figures() -> None:
    i2t, t2i = torch.tensor([0, 3, 7]), torch.tensor([0, 0, 12])
    report, flat = retrieval_report(i2t, t2i), recalls(i2t, t2i)
    for direction in ("i2t", "t2i"):
        assert set(report[direction]) == {"R1", "R5", "R10", "median_rank"}
        for cutoff in ("R1", "R5", "R10"):
            assert report[direction][cutoff] == flat[f"{direction}_{cutoff}"]
    assert report["rsum"] == flat["rsum"]


@pytest.mark.parametrize(
    ("ranks", "median"),
    [([0], 1), ([0, 0, 7], 1), ([2, 9, 4], 5), ([0, 10], 6), ([0, 3, 6, 9], 5)],
)
def test_the_median_rank_counts_from_1_and_is_rounded_down_as_in_published_tables(
    ranks: list[int], median: int
) -> None:
    report = retrieval_report(torch.tensor(ranks), torch.tensor(ranks))
    assert report["i2t"]["median_rank"] == median
    assert report["t2i"]["median_rank"] == median


@given(captions=st.lists(st.integers(1, 4), min_size=1, max_size=17), folds=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None)
def test_each_fold_is_ranked_as_if_it_were_alone(captions: list[int], folds: int, seed: int) -> None:
    images, folds = len(captions), min(folds, len(captions))
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(images).repeat_interleave(torch.tensor(captions))
    image_ND = normalize(torch.randn(images, 8, generator=generator), dim=1)
    text_MD = normalize(torch.randn(len(owner), 8, generator=generator), dim=1)
    found = folded_ranks(image_ND, text_MD, owner, folds)
    assert len(found) == folds
    start = 0
    for (i2t, t2i), rows in zip(found, torch.arange(images).tensor_split(folds), strict=True):
        assert rows[0] == start  # contiguous
        start += len(rows)
        mine = [m for m in range(len(owner)) if owner[m] in rows]
        alone = retrieval_ranks(image_ND[rows], text_MD[mine], owner[mine] - rows[0])
        assert (i2t.tolist(), t2i.tolist()) == (alone[0].tolist(), alone[1].tolist())
    assert start == images
