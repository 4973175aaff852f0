"""mAP@R, R-Precision and the quality of a score, against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import normalize

from pipeline.retrieval.relevance import (
    RELIABILITY_EDGES,
    calibration_error,
    judged_precision_at_r,
    known_ranks,
    precision_at_r,
    ranking_quality,
    reliability,
)


def one_query(order: list[int], relevant: set[int]) -> tuple[float, float]:
    """mAP@R and R-Precision of items in order of similarity."""
    first = order[: len(relevant)]
    hits, average = 0, 0.0
    for place, item in enumerate(first, start=1):
        if item in relevant:
            hits += 1
            average += hits / place
    return average / len(relevant), hits / len(relevant)


@given(seed=st.integers(0, 1000), queries=st.integers(1, 9), items=st.integers(1, 12), chunk_size=st.integers(1, 10))
def test_both_figures_are_those_of_a_loop_over_queries(seed: int, queries: int, items: int, chunk_size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query_QD = normalize(torch.randn(queries, 6, generator=generator, dtype=torch.float64), dim=1)
    item_ID = normalize(torch.randn(items, 6, generator=generator, dtype=torch.float64), dim=1)
    true_QI = torch.rand(queries, items, generator=generator) < 0.3
    true_query_P, true_item_P = true_QI.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(true_query_P), generator=generator)
    average, precision = precision_at_r(query_QD, item_ID, true_query_P[shuffled], true_item_P[shuffled], chunk_size)
    slow = [
        one_query(
            (query_QD[q] @ item_ID.T).argsort(descending=True).tolist(), set(true_QI[q].nonzero().flatten().tolist())
        )
        for q in range(queries)
        if true_QI[q].any()
    ]
    assert average.tolist() == pytest.approx([figures[0] for figures in slow])
    assert precision.tolist() == pytest.approx([figures[1] for figures in slow])


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_ties_count_against_a_model_and_known_matches_do_not(chunk_size: int) -> None:
    query_QD, item_ID = torch.ones(5, 1), torch.ones(7, 1)
    right_query_P, right_item_P = torch.tensor([0, 1, 2, 3, 4, 4, 4]), torch.tensor([0, 1, 2, 3, 4, 5, 5])
    found = known_ranks(query_QD, item_ID, right_query_P, right_item_P, chunk_size)
    assert found.tolist() == [6, 6, 6, 6, 5], "items 4 and 5 are both right for the last query"


@given(seed=st.integers(0, 1000), pairs=st.integers(2, 60), scores=st.integers(1, 80))
def test_it_is_what_scikit_learn_computes(seed: int, pairs: int, scores: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score_P = torch.randint(scores, (pairs,), generator=generator).double() / 7 - 1
    true_P = torch.rand(pairs, generator=generator) < 0.4
    true_P[:2] = torch.tensor([True, False])
    expected = {
        "auc": roc_auc_score(true_P.numpy(), score_P.numpy()),
        "ap": average_precision_score(true_P.numpy(), score_P.numpy()),
    }
    assert ranking_quality(score_P, true_P) == pytest.approx(expected)


@pytest.mark.parametrize("truth", [True, False])
def test_one_class_alone_says_nothing_about_a_score(truth: bool) -> None:
    with pytest.raises(ValueError, match="both classes are needed"):
        ranking_quality(torch.rand(3), torch.full((3,), truth))


@given(seed=st.integers(0, 1000), queries=st.integers(1, 6), pairs=st.integers(1, 40))
def test_judged_pairs_are_ranked_among_themselves(seed: int, queries: int, pairs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query_P = torch.randint(queries, (pairs,), generator=generator)
    score_P = torch.randint(6, (pairs,), generator=generator).float()  # with ties
    true_P = torch.rand(pairs, generator=generator) < 0.4
    slow = {}
    for query in range(queries):
        mine = (query_P == query).nonzero().flatten().tolist()
        relevant = {pair for pair in mine if true_P[pair]}
        if 0 < len(relevant) < len(mine):
            slow[query] = one_query(sorted(mine, key=lambda pair: (-score_P[pair], bool(true_P[pair]))), relevant)
    query_A, average_A, precision_A = judged_precision_at_r(score_P, query_P, true_P)
    assert query_A.tolist() == list(slow)
    assert average_A.tolist() == pytest.approx([average for average, _ in slow.values()])
    assert precision_A.tolist() == pytest.approx([precision for _, precision in slow.values()])


def test_reliability_counts_every_pair_once_and_averages_within_a_bin() -> None:
    probability_P = torch.tensor([0.0, 0.25, 0.29, 0.3, 0.95, 1.0])
    true_P = torch.tensor([False, True, False, True, True, True])
    rows = reliability(probability_P, true_P)
    assert [(row["low"], row["high"], row["count"]) for row in rows] == [
        (0.0, 1e-6, 1),
        (0.2, 0.3, 2),
        (0.3, 0.4, 1),
        (0.9, 1.0, 2),
    ]
    assert [row["mean_posterior"] for row in rows] == pytest.approx([0, 0.27, 0.3, 0.975])
    assert [row["true_share"] for row in rows] == [0, 0.5, 1, 1]


def test_a_probability_on_an_edge_belongs_to_the_bin_above_and_empty_bins_have_no_row() -> None:
    edges_P = torch.tensor(RELIABILITY_EDGES[1:6], dtype=torch.float64)
    rows = reliability(edges_P, torch.zeros(5, dtype=torch.bool))
    assert [(row["low"], row["count"]) for row in rows] == [(edge, 1) for edge in RELIABILITY_EDGES[1:6]]


def test_the_calibration_error_is_the_mean_distance_of_a_pairs_bin() -> None:
    probability_P = torch.tensor([0.0, 0.25, 0.29, 0.3, 0.95, 1.0])
    true_P = torch.tensor([False, True, False, True, True, True])
    assert calibration_error(probability_P, true_P) == pytest.approx((0 + 2 * 0.23 + 0.7 + 2 * 0.025) / 6)
