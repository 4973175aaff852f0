"""The other strategies, and the draw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import (
    Sample,
    all_weights,
    draw_negative,
    fne_weights,
    hardest_weights,
    random_weights,
    sample,
    semi_hard_weights,
)

FNE: dict[str, Any] = {
    "cutdown": 0.2,
    "alpha": 0.5,
    "suspect_alpha": None,
    "prior": 10_000.0,
    "suspect": 0.001,
    "min_matches": 1,
}
NEVER: dict[str, Any] = {"drop": None}
CHI_SQUARE_3 = 11.34  # the 99th percentile of chi-square with three degrees of freedom
UNIFORM = st.floats(0, 1, exclude_min=True, exclude_max=True, width=32)


def excluded(*rows: str) -> Tensor:
    """`x` where a candidate is excluded."""
    return torch.tensor([[sign == "x" for sign in row] for row in rows])


def semi_hard(similarity: list[float], own: float, mask: str, margin: float = 0.2) -> list[float]:
    return semi_hard_weights(torch.tensor([similarity]), torch.tensor([own]), excluded(mask), margin)[0].tolist()


def test_hardest_is_one_hot_on_the_most_similar_candidate_that_is_allowed() -> None:
    similarity_BC = torch.tensor([[0.9, 0.1, 0.5], [0.2, -0.9, -0.5], [0.1, 0.2, 0.3]])
    weights_BC = hardest_weights(similarity_BC, excluded("x..", "x..", "xxx"))
    assert weights_BC.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_semi_hard_takes_all_that_lie_below_the_positive_but_within_the_margin() -> None:
    assert semi_hard([0.75, 0.65, 0.61, 0.3], own=0.7, mask="....") == [0, 1, 1, 0]


def test_semi_hard_leaves_out_what_is_excluded() -> None:
    assert semi_hard([0.75, 0.65, 0.61, 0.3], own=0.7, mask=".x..") == [0, 0, 1, 0]


def test_without_any_inside_the_margin_semi_hard_takes_the_hardest_below_the_positive() -> None:
    assert semi_hard([0.9, 0.3, 0.1, 0.4], own=0.7, mask="....") == [0, 0, 0, 1]
    assert semi_hard([0.9, 0.3, 0.1, 0.4], own=0.7, mask="...x") == [0, 1, 0, 0]


def test_where_all_are_at_least_as_similar_as_the_positive_semi_hard_takes_the_hardest() -> None:
    assert semi_hard([0.9, 0.8, 0.7], own=0.7, mask="...") == [1, 0, 0]
    assert semi_hard([0.9, 0.8, 0.7], own=0.7, mask="x..") == [0, 1, 0]


def test_semi_hard_has_nothing_to_take_where_all_are_excluded() -> None:
    assert semi_hard([0.9, 0.65], own=0.7, mask="xx") == [0, 0]


def test_semi_hard_decides_for_each_anchor_by_itself() -> None:
    similarity_BC = torch.tensor([[0.75, 0.65, 0.3], [0.9, 0.3, 0.1], [0.9, 0.8, 0.75]])
    weights_BC = semi_hard_weights(similarity_BC, torch.full((3,), 0.7), excluded("...", "...", "..."), 0.2)
    assert weights_BC.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_a_candidate_just_a_margin_below_the_positive_adds_no_loss_and_is_not_semi_hard() -> None:
    assert semi_hard([0.5, 0.625, 0.75], own=0.75, mask="...", margin=0.25) == [0, 1, 0]


def test_all_weighs_every_candidate_alike() -> None:
    assert all_weights(excluded("x.x.", "xxxx")).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]


def test_random_is_one_hot_on_a_candidate_drawn_uniformly() -> None:
    draws = torch.linspace(0.005, 0.995, 100)
    weights_BC = random_weights(excluded("x..x.").expand(100, 5), draws)
    assert weights_BC.sum(dim=1).tolist() == [1] * 100
    assert weights_BC.sum(dim=0).tolist() == pytest.approx([0, 33, 33, 0, 34], abs=1)


def test_random_has_nothing_to_draw_where_all_are_excluded() -> None:
    assert random_weights(excluded("xxx"), torch.tensor([0.5])).tolist() == [[0, 0, 0]]


def answer(strategy: str, excluded_BC: Tensor, similarity_BC: Tensor) -> Sample:
    statistics = SimilarityStatistics()
    statistics.update(torch.eye(4) * 0.8 + 0.1 + torch.diag(torch.tensor([0.01, 0.02, 0.03, 0.04])))
    chosen = SimpleNamespace(strategy=strategy, **FNE, **NEVER)
    draws = torch.full((len(similarity_BC),), 0.5)
    return sample(similarity_BC, similarity_BC[:, 0], excluded_BC, statistics, chosen, margin=0.2, uniform_B=draws)


@pytest.mark.parametrize("strategy", ["fne", "hardest", "semi_hard", "random", "all"])
def test_no_strategy_weighs_an_excluded_candidate(strategy: str) -> None:
    excluded_BC = torch.rand(6, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    similarity_BC = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    weights_BC = answer(strategy, excluded_BC, similarity_BC).weights_BC
    assert bool((weights_BC[excluded_BC] == 0).all())
    assert bool((weights_BC.sum(dim=1) > 0).all())


def test_every_strategy_reports_what_fne_would_suspect() -> None:
    similarity_BC = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    by_fne = answer("fne", torch.zeros(6, 20, dtype=torch.bool), similarity_BC)
    assert bool(by_fne.suspected_BC.any())
    for strategy in ("hardest", "semi_hard", "random", "all"):
        other = answer(strategy, torch.zeros(6, 20, dtype=torch.bool), similarity_BC)
        assert torch.equal(other.suspected_BC, by_fne.suspected_BC)
        assert not other.cut_down_BC.any()


def test_fne_is_given_all_of_its_settings() -> None:
    generator = torch.Generator().manual_seed(1)
    similarity_BC, own_B, statistics = (
        torch.rand(6, 20, generator=generator),
        torch.full((6,), 0.5),
        SimilarityStatistics(),
    )
    statistics.update(torch.eye(4) * 0.8 + 0.1 + torch.diag(torch.tensor([0.01, 0.02, 0.03, 0.04])))
    none_BC, chosen = torch.zeros(6, 20, dtype=torch.bool), FNE | {"cutdown": 0.7, "suspect_alpha": 3.0}
    settings = SimpleNamespace(strategy="fne", **chosen, **NEVER)
    found = sample(similarity_BC, own_B, none_BC, statistics, settings, margin=0.2, uniform_B=torch.full((6,), 0.5))
    assert torch.equal(found.weights_BC, fne_weights(similarity_BC, own_B, none_BC, statistics, **chosen))
    assert not torch.equal(found.weights_BC, fne_weights(similarity_BC, own_B, none_BC, statistics, **FNE))


def test_what_was_cut_down_is_reported_without_what_is_excluded() -> None:
    statistics = SimilarityStatistics()
    statistics.update(torch.tensor([[0.8, 0.1], [0.2, 0.8]]), torch.eye(2, dtype=torch.bool))
    similarity_BC = torch.tensor([[0.1, 0.7, 0.2, 0.75, 0.3]])
    settings = SimpleNamespace(strategy="fne", **FNE, **NEVER)
    found = sample(
        similarity_BC,
        torch.tensor([0.8]),
        excluded("x..x."),
        statistics,
        settings,
        margin=0.2,
        uniform_B=torch.tensor([0.5]),
    )
    assert found.cut_down_BC.tolist() == [[False, False, True, False, True]]
    assert (found.weights_BC > 0).tolist() == [[False, True, False, False, False]]


@pytest.mark.parametrize(("uniform", "drawn"), [(0.125, 0), (0.25, 1), (0.5, 2), (0.875, 2)])
def test_a_draw_on_an_edge_is_the_candidate_that_begins_there(uniform: float, drawn: int) -> None:
    assert int(draw_negative(torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([uniform]))) == drawn


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(ValueError, match="'hardestest'"):
        answer("hardestest", torch.zeros(1, 2, dtype=torch.bool), torch.rand(1, 2))


@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(2**-100, 2**20, width=32)), min_size=1, max_size=30),
    uniform=UNIFORM,
)
@settings(deadline=None, max_examples=300)
def test_a_weight_of_zero_is_never_drawn(weights: list[float], uniform: float) -> None:
    drawn = int(draw_negative(torch.tensor([weights]), torch.tensor([uniform])))
    assert weights[drawn] > 0 or not any(weights)


@pytest.mark.parametrize("uniform", [2**-24, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_candidate_with_a_weight(uniform: float) -> None:
    drawn = int(draw_negative(torch.tensor([[0, 0, 0.4, 0, 0.6, 0, 0]]), torch.tensor([uniform])))
    assert drawn == (2 if uniform < 0.5 else 4)


@pytest.mark.parametrize("within", [0.01, 0.5, 0.99])
def test_few_candidates_are_drawn_by_the_middles_of_2_to_the_22_steps(within: float) -> None:
    """As ever: their draws must not change with the precision that many candidates need."""
    edge_B = torch.arange(1, 7, dtype=torch.float64) / 7 * (1 << 22)
    drawn_B = draw_negative(torch.ones(6, 7), (edge_B.floor() + within) / (1 << 22))
    assert torch.equal(drawn_B, torch.arange(6) + (edge_B.floor() + 0.5 > edge_B))


@pytest.mark.parametrize("place", [0, 1, 700_000, 999_999])
def test_of_a_million_candidates_each_has_its_share_of_the_draws(place: int) -> None:
    """The draws that fall on a candidate are an interval as wide as its weight's share, to a thousandth."""
    weights_BC = torch.rand(1, 1_000_000, generator=torch.Generator().manual_seed(3)) + 0.5
    edges = torch.cat([torch.zeros(1), weights_BC[0].double().cumsum(0)]) / weights_BC.double().sum()
    low, high = edges[place], edges[place + 1]
    margin = (high - low) / 1000
    inside = torch.linspace(float(low + margin), float(high - margin), 5, dtype=torch.float64)
    assert draw_negative(weights_BC.expand(5, -1), inside).tolist() == [place] * 5


def test_frequencies_are_proportional_to_the_weights() -> None:
    weights = [0.0, 1.0, 0.25, 0.0, 3.0, 0.75]
    draws = np.random.default_rng(7).uniform(size=20_000).astype(np.float32)
    drawn = draw_negative(torch.tensor([weights]).expand(len(draws), -1), torch.from_numpy(draws))
    counts = torch.bincount(drawn, minlength=len(weights)).numpy()
    expected = np.array(weights) / sum(weights) * len(draws)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < CHI_SQUARE_3


@given(seed=st.integers(0, 1000), split=st.integers(1, 7))
@settings(deadline=None)
def test_the_same_uniform_figure_draws_the_same_candidate_in_any_part_of_the_batch(seed: int, split: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights_BC, uniform_B = torch.rand(8, 50, generator=generator), torch.rand(8, generator=generator)
    parts = [draw_negative(weights_BC[rows], uniform_B[rows]) for rows in (slice(0, split), slice(split, 8))]
    assert torch.equal(torch.cat(parts), draw_negative(weights_BC, uniform_B))


@pytest.mark.parametrize("strategy", ["fne", "hardest", "semi_hard", "random", "all"])
def test_a_candidate_with_a_posterior_above_drop_is_no_negative_in_any_strategy(strategy: str) -> None:
    statistics = SimilarityStatistics()
    similarity_BC = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    evidence_BC = torch.tensor([[0.31, 0.3, 0.9, 0.0]])
    found = sample(
        similarity_BC,
        torch.tensor([1.0]),
        excluded("...."),
        statistics,
        SimpleNamespace(strategy=strategy, **FNE | {"cutdown": 2.0}, drop=0.3),
        margin=0.5,
        uniform_B=torch.tensor([0.99]),
        evidence_BC=evidence_BC,
    )
    assert found.dropped_BC is not None
    assert found.dropped_BC.tolist() == [[True, False, True, False]]
    weight_C = found.weights_BC[0].tolist()
    assert weight_C[0] == weight_C[2] == 0
    assert sum(weight_C) > 0


def test_fne_suspects_by_the_evidence_where_there_is_some() -> None:
    statistics = SimilarityStatistics()
    similarity_BC, evidence_BC = torch.tensor([[0.5, 0.6]]), torch.tensor([[0.4, 0.0]])
    found = sample(
        similarity_BC,
        torch.tensor([0.9]),
        excluded(".."),
        statistics,
        SimpleNamespace(strategy="fne", **FNE | {"cutdown": 2.0, "prior": "estimated"}, **NEVER),
        margin=0.2,
        uniform_B=torch.tensor([0.5]),
        evidence_BC=evidence_BC.clone(),
    )
    assert found.suspected_BC.tolist() == [[True, False]]
    assert found.weights_BC[0].tolist() == pytest.approx([np.exp(-0.5 * 0.4), np.exp(-0.5 * 0.3**2)])
