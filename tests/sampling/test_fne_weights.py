"""FNE's sampling weights against loops over single elements."""

from __future__ import annotations

import math
from typing import NotRequired, TypedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.sampling.posterior import false_negative_posterior
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import fne_weights


class Choices(TypedDict):
    cutdown: float
    alpha: float
    prior: float
    suspect: float
    min_matches: int
    suspect_alpha: NotRequired[float | None]


PUBLISHED: Choices = {"cutdown": 0.2, "alpha": 0.5, "prior": 10_000, "suspect": 0.001, "min_matches": 200}
NONE_KNOWN = torch.zeros(1, 4, dtype=torch.bool)


def seen(positives: list[float], negatives: list[float]) -> SimilarityStatistics:
    statistics = SimilarityStatistics()
    for population, values in ((statistics.positive, positives), (statistics.negative, negatives)):
        population.update(torch.tensor(values, dtype=torch.float64), torch.ones(len(values), dtype=torch.bool))
    return statistics


def one_by_one(
    similarity_BC: Tensor, own_B: Tensor, known_BC: Tensor, statistics: SimilarityStatistics, choices: Choices
) -> Tensor:
    """The definition, element by element."""
    weights_BC = torch.zeros_like(similarity_BC)
    alpha = choices["alpha"]
    suspect_alpha = choices.get("suspect_alpha")
    mean = float(statistics.positive.mean) if int(statistics.positive.count) else 0.0
    for b, own in enumerate(own_B.tolist()):
        left = False
        for c, similarity in enumerate(similarity_BC[b].tolist()):
            if known_BC[b, c] or similarity <= mean - choices["cutdown"]:
                continue
            left = True
            chance = float(
                false_negative_posterior(
                    similarity_BC[b, c], statistics.positive, statistics.negative, choices["prior"]
                )
            )
            if int(statistics.positive.count) > choices["min_matches"] and chance > choices["suspect"]:
                weights_BC[b, c] = math.exp(-(alpha if suspect_alpha is None else suspect_alpha) * chance)
            else:
                weights_BC[b, c] = math.exp(-alpha * (similarity - own) ** 2)
        candidates = [c for c in range(similarity_BC.shape[1]) if not known_BC[b, c]]
        if not left and candidates:
            weights_BC[b, max(candidates, key=lambda c, b=b: float(similarity_BC[b, c]))] = 1  # type: ignore[misc]
    return weights_BC


@given(
    seed=st.integers(0, 10_000),
    matched=st.integers(0, 6),
    min_matches=st.integers(0, 4),
    cutdown=st.floats(0, 1),
    alpha=st.floats(0, 5),
    suspect_alpha=st.one_of(st.none(), st.floats(0, 20)),
    prior=st.sampled_from([2.0, 100.0, 10_000.0]),
)
@settings(deadline=None)
def test_weights_are_those_of_the_definition(
    seed: int,
    matched: int,
    min_matches: int,
    cutdown: float,
    alpha: float,
    suspect_alpha: float | None,
    prior: float,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity_BC = torch.rand(4, 9, generator=generator, dtype=torch.float64) * 2 - 1
    own_B = torch.rand(4, generator=generator, dtype=torch.float64)
    known_BC = torch.rand(4, 9, generator=generator) < 0.4
    statistics = seen(
        (0.5 + torch.rand(matched, generator=generator) / 2).tolist(),
        (torch.rand(2 * matched, generator=generator) / 2).tolist(),
    )
    choices: Choices = {
        "cutdown": cutdown,
        "alpha": alpha,
        "prior": prior,
        "suspect": 0.001,
        "min_matches": min_matches,
        "suspect_alpha": suspect_alpha,
    }
    found_BC = fne_weights(similarity_BC, own_B, known_BC, statistics, **choices)
    torch.testing.assert_close(found_BC, one_by_one(similarity_BC, own_B, known_BC, statistics, choices))


def test_while_nothing_has_matched_the_cutdown_is_from_zero() -> None:
    weights_BC = fne_weights(
        torch.tensor([[-0.3, -0.2, -0.1, 0.4]]), torch.tensor([0.5]), NONE_KNOWN, SimilarityStatistics(), **PUBLISHED
    )
    assert (weights_BC > 0).tolist() == [[False, False, True, True]]  # s ≤ 0 - 0.2 is cut down


def test_known_positives_weigh_nothing_and_an_anchor_with_no_other_candidate_has_no_negative() -> None:
    known_2C = torch.tensor([[True, False, False], [True, True, True]])
    weights_BC = fne_weights(
        torch.full((2, 3), 0.9), torch.full((2,), 0.9), known_2C, SimilarityStatistics(), **PUBLISHED
    )
    assert weights_BC.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_where_every_weight_underflows_the_draw_is_that_of_the_exact_weights() -> None:
    """e^-400 is no float32 and e^-900 no float64: their ratios to the largest weight of the row are."""
    similarity_BC = torch.tensor([[0.5, 0.49999, 0.3, 0.1], [0.9, 0.5, 0.3, 0.1]])
    choices: Choices = {**PUBLISHED, "cutdown": 2.0, "alpha": 2500.0}
    own_B = torch.tensor([0.9, 0.9])
    weights_BC = fne_weights(similarity_BC, own_B, NONE_KNOWN.expand(2, 4), SimilarityStatistics(), **choices)
    exponent_BC = -2500 * (similarity_BC.double() - own_B.double()[:, None]).square()
    shifted_C = (exponent_BC[0] - exponent_BC[0].max()).exp()
    torch.testing.assert_close(weights_BC.double()[0], shifted_C, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(weights_BC.double()[1], exponent_BC.exp()[1])  # as it is: not all of it underflows


@pytest.mark.parametrize("alpha", [1e3, 1e6])
def test_an_anchor_with_candidates_always_has_a_negative(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    similarity_BC, known_BC = torch.rand(50, 9, generator=generator), torch.rand(50, 9, generator=generator) < 0.4
    statistics = seen([0.78, 0.8, 0.82], [0.38, 0.4, 0.42, 0.38, 0.4, 0.42])
    choices: Choices = {**PUBLISHED, "alpha": alpha, "min_matches": 0}
    weights_BC = fne_weights(similarity_BC, torch.full((50,), 0.9), known_BC, statistics, **choices)
    assert torch.equal((weights_BC > 0).any(dim=1), (~known_BC).any(dim=1))
    assert not (weights_BC[known_BC] > 0).any()


def test_suspects_are_eliminated_by_an_alpha_of_their_own() -> None:
    statistics = seen([0.78, 0.8, 0.82], [0.38, 0.4, 0.42, 0.38, 0.4, 0.42])
    similarity_BC = torch.tensor([[0.8, 0.81, 0.4, 0.5], [0.8, 0.598, 0.78, 0.79]])
    choices: Choices = {**PUBLISHED, "cutdown": 0.5, "min_matches": 2}
    eliminating: Choices = {**choices, "suspect_alpha": 1e4}
    own_B, known_BC = torch.tensor([0.8, 0.8]), NONE_KNOWN.expand(2, 4)
    plain_BC, weights_BC = (
        fne_weights(similarity_BC, own_B, known_BC, statistics, **c) for c in (choices, eliminating)
    )
    assert weights_BC[0, :2].tolist() == [0, 0]
    assert torch.equal(weights_BC[0, 2:], plain_BC[0, 2:]), "the others keep theirs"
    assert weights_BC[1].argmax() == 1, "where all are suspects, the least suspected one is left"


def test_weights_carry_no_gradient() -> None:
    similarity_BC = torch.rand(2, 4, requires_grad=True)
    weights_BC = fne_weights(
        similarity_BC, similarity_BC[:, 0], NONE_KNOWN.expand(2, 4), SimilarityStatistics(), **PUBLISHED
    )
    assert not weights_BC.requires_grad
