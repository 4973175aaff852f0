"""The posterior of several kinds of evidence: its formula, its calibration, and what is missing or extreme."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evidence.posterior import Posterior, estimated_prior, fit_posterior, separation
from pipeline.retrieval.relevance import calibration_error


def evidence(rows: int, shift: float, seed: int, common: float = 0.0) -> Tensor:
    """Two kinds of evidence with unequal scales that share a part."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    shared = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    mixed = (1 - common) ** 0.5 * own + common**0.5 * shared
    return (mixed + shift) * torch.tensor([1.0, 0.1]) + torch.tensor([0.0, 0.5])


POSITIVE, NEGATIVE = evidence(300, 1.5, 1, common=0.6), evidence(500, 0, 2, common=0.6)


def log_ratio(row: list[float]) -> float:
    """Naive Bayes written out."""
    total = 0.0
    for place, value in enumerate(row):
        for sign, rows in ((1, POSITIVE), (-1, NEGATIVE)):
            column = rows[:, place].tolist()
            mean = sum(column) / len(column)
            variance = sum((number - mean) ** 2 for number in column) / len(column)
            total += sign * (-((value - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2)
    return total


def test_the_probability_is_the_tempered_ratio_and_the_prior_odds() -> None:
    posterior = fit_posterior(POSITIVE, NEGATIVE, prior=50)
    asked = evidence(20, 0.7, 3)
    for row, ratio, found in zip(
        asked.tolist(), posterior.log_ratio(asked).tolist(), posterior.probability(asked).tolist(), strict=True
    ):
        assert ratio == pytest.approx(posterior.temperature * log_ratio(row))
        assert found == pytest.approx(1 / (1 + 49 * math.exp(-posterior.temperature * log_ratio(row))))


def test_the_temperature_is_the_logistic_regression_of_match_on_the_log_ratio() -> None:
    ratios = [[log_ratio(row)] for row in (*POSITIVE.tolist(), *NEGATIVE.tolist())]
    expected = LogisticRegression(C=torch.inf, fit_intercept=False, class_weight="balanced", tol=1e-10)
    expected.fit(ratios, [1] * 300 + [0] * 500)
    found = fit_posterior(POSITIVE, NEGATIVE, prior=50).temperature
    assert found == pytest.approx(expected.coef_.item(), rel=1e-4)
    assert found < 0.8


def test_evidence_that_is_given_twice_counts_once() -> None:
    asked = evidence(20, 0.7, 3)
    once, twice = (
        fit_posterior(POSITIVE[:, columns], NEGATIVE[:, columns], prior=9).probability(asked[:, columns])
        for columns in ([0], [0, 0])
    )
    torch.testing.assert_close(once, twice, atol=1e-6, rtol=0)


def test_evidence_counts_no_more_than_normals_say() -> None:
    assert fit_posterior(POSITIVE + 100, NEGATIVE, prior=9).temperature == pytest.approx(1, abs=1e-6)


def test_probabilities_are_calibrated_where_the_prior_is_right() -> None:
    asked = torch.cat([evidence(2000, 1.5, 4, common=0.6), evidence(38_000, 0, 5, common=0.6)])
    true_K = torch.arange(40_000) < 2000
    posterior = fit_posterior(POSITIVE, NEGATIVE, prior=20)
    assert calibration_error(posterior.probability(asked), true_K) < 0.02
    plain = dataclasses.replace(posterior, temperature=1.0)
    assert calibration_error(plain.probability(asked), true_K) > 0.02


def test_missing_evidence_is_left_out_of_its_row_and_of_the_fit() -> None:
    posterior = fit_posterior(POSITIVE, NEGATIVE, prior=8)
    asked = torch.tensor([[0.3, torch.nan], [torch.nan, torch.nan]])
    first = [part[:, :1] for part in (POSITIVE, NEGATIVE)]
    alone = dataclasses.replace(fit_posterior(*first, prior=8), temperature=posterior.temperature)
    assert posterior.probability(asked).tolist() == pytest.approx([float(alone.probability(asked[:1, :1])), 1 / 8])
    gaps = POSITIVE.repeat(2, 1)
    gaps[:300, 0] = torch.nan
    torch.testing.assert_close(fit_posterior(gaps, NEGATIVE, prior=8).positive, posterior.positive)


@pytest.mark.parametrize("there", [0, 1])
def test_a_kind_of_evidence_that_one_population_lacks_is_not_used(there: int) -> None:
    lacking = POSITIVE.clone()
    lacking[there:, 1] = torch.nan
    found = fit_posterior(lacking, NEGATIVE, prior=8)
    alone = fit_posterior(POSITIVE[:, :1], NEGATIVE[:, :1], prior=8)
    asked = evidence(20, 0.7, 3)
    torch.testing.assert_close(found.probability(asked), alone.probability(asked[:, :1]))
    again = Posterior.from_numbers(json.loads(json.dumps(found.as_numbers(), allow_nan=False)))
    assert torch.equal(again.probability(asked), found.probability(asked))


def test_extreme_evidence_and_evidence_without_spread_give_numbers() -> None:
    far = torch.tensor([-torch.inf, -1e300, -1e30, 0, 1e30, 1e300, torch.inf], dtype=torch.float64)
    asked = torch.cartesian_prod(far, far)
    constant = fit_posterior(torch.ones(5, 2), torch.zeros(5, 2), prior=1e12)
    for posterior in (fit_posterior(POSITIVE, NEGATIVE, prior=50), constant):
        assert bool(posterior.log_ratio(asked).isfinite().all())
        probability_K = posterior.probability(asked.float())
        assert bool(((probability_K >= 0) & (probability_K <= 1)).all())
    farther_KF = torch.tensor([[1e30, 0.5], [1e300, 0.5], [torch.inf, 0.5]], dtype=torch.float64)
    near, far_out, infinite = fit_posterior(POSITIVE, NEGATIVE, prior=50).log_ratio(farther_KF).tolist()
    assert near == far_out == infinite != 0  # not as if there were no evidence
    assert constant.probability(torch.tensor([[1.0, 1], [0, 0]])).tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("prior", [1, 0, -3, math.nan])
def test_a_prior_that_is_none_is_refused(prior: float) -> None:
    with pytest.raises(InputError, match="prior"):
        fit_posterior(POSITIVE, NEGATIVE, prior=prior)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="1 matching and 500 unpaired"):
        fit_posterior(POSITIVE[:1], NEGATIVE, prior=2)


def test_separation_is_the_area_under_the_roc_curve_and_ties_count_half() -> None:
    generator = torch.Generator().manual_seed(0)
    positive_K, unpaired_K = (torch.randint(9, (size,), generator=generator).double() for size in (30, 50))
    match_K = [True] * 30 + [False] * 50
    expected = roc_auc_score(match_K, torch.cat([positive_K, unpaired_K]).numpy())
    assert separation(positive_K, unpaired_K) == pytest.approx(expected)


def test_the_estimated_prior_is_the_smallest_ratio_of_tails() -> None:
    positive_K, unpaired_K = POSITIVE[:, 0], NEGATIVE[:, 0]
    ratios = [
        (int((unpaired_K >= threshold).sum()) + 1) / 501 / float((positive_K >= threshold).double().mean())
        for threshold in positive_K.sort(descending=True).values[2::3]  # each per cent of 300
    ]
    assert estimated_prior(positive_K, unpaired_K) == pytest.approx(1 / min(ratios))


def test_the_estimated_prior_finds_matches_among_unpaired_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    positive_K, matches_K = (torch.randn(rows, generator=generator) + 6 for rows in (20_000, 2000))
    unpaired_K = torch.cat([torch.randn(198_000, generator=generator), matches_K])
    assert estimated_prior(positive_K, unpaired_K) == pytest.approx(100, rel=0.2)
    assert 1 < estimated_prior(positive_K, positive_K) < 1.1


def test_more_agreement_never_counts_against_a_match() -> None:
    """Where an image's own captions agree by about a half, an identical one is no worse than they are."""
    draws = torch.Generator().manual_seed(1)
    own_K1 = (0.5 + 0.02 * torch.randn(500, 1, generator=draws)).double()
    unpaired_K1 = (0.1 + 0.2 * torch.randn(5000, 1, generator=draws)).double()
    posterior = fit_posterior(own_K1, unpaired_K1, prior=100)
    agreement_K1 = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None]
    assert (posterior.probability(agreement_K1).diff() >= 0).all()
    torch.testing.assert_close(
        posterior.fast_log_ratio([agreement_K1[:, 0].float()]).double(),
        posterior.log_ratio(agreement_K1),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_kind_that_is_lower_where_pairs_match_is_left_out_if_there_is_another() -> None:
    draws = torch.Generator().manual_seed(1)
    own_K2 = torch.randn(500, 2, generator=draws) + torch.tensor([2.0, -1.0])
    unpaired_K2 = torch.randn(5000, 2, generator=draws)
    posterior = fit_posterior(own_K2, unpaired_K2, prior=100)
    assert posterior.as_numbers()["positive"]["mean"][1] is None
    assert posterior.log_ratio(torch.tensor([[2.0, -9.0]])) > 0
    alone = fit_posterior(own_K2[:, 1:], unpaired_K2[:, 1:], prior=100)
    assert alone.as_numbers()["positive"]["mean"][0] == pytest.approx(-1, abs=0.2)
