"""Bayes' rule for "is this negative a false one?", also where the plain ratio is 0/0."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sampling.posterior import Normal, false_negative_posterior

MEANS = st.floats(-1, 1)
VARIANCES = st.floats(0, 1)
PRIORS = st.floats(1.001, 1e9)


def normal(mean: float, variance: float) -> Normal:
    return SimpleNamespace(
        mean=torch.tensor(mean, dtype=torch.float64), variance=torch.tensor(variance, dtype=torch.float64)
    )


def density(value: float, mean: float, variance: float) -> float:
    return math.exp(-((value - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


@given(
    similarity=st.floats(-1, 1),
    means=st.tuples(MEANS, MEANS),
    spread=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    prior=PRIORS,
)
@settings(deadline=None)
def test_it_is_the_plain_ratio_where_that_can_be_computed(
    similarity: float, means: tuple[float, float], spread: tuple[float, float], prior: float
) -> None:
    matched = density(similarity, means[0], spread[0])
    unmatched = (prior - 1) * density(similarity, means[1], spread[1])
    found = false_negative_posterior(
        torch.tensor(similarity, dtype=torch.float64), normal(means[0], spread[0]), normal(means[1], spread[1]), prior
    )
    assert float(found) == pytest.approx(matched / (matched + unmatched), rel=1e-9)


@given(
    similarity=st.lists(st.floats(-6e4, 6e4), min_size=1, max_size=8),  # float16 ends there
    means=st.tuples(MEANS, MEANS),
    variances=st.tuples(VARIANCES, VARIANCES),
    prior=PRIORS,
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=200)
def test_it_is_a_probability_whatever_the_populations(
    similarity: list[float],
    means: tuple[float, float],
    variances: tuple[float, float],
    prior: float,
    dtype: torch.dtype,
) -> None:
    found = false_negative_posterior(
        torch.tensor(similarity, dtype=dtype), normal(means[0], variances[0]), normal(means[1], variances[1]), prior
    )
    assert found.shape == (len(similarity),)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert bool(((found >= 0) & (found <= 1)).all())  # a NaN fails both


@given(mean=MEANS, variance=VARIANCES, similarity=st.floats(-1, 1), prior=PRIORS)
@settings(deadline=None)
def test_equal_populations_leave_the_prior(mean: float, variance: float, similarity: float, prior: float) -> None:
    found = false_negative_posterior(
        torch.tensor(similarity, dtype=torch.float64), normal(mean, variance), normal(mean, variance), prior
    )
    assert float(found) == pytest.approx(1 / prior, rel=1e-9)


def test_populations_of_one_value_each_still_tell_them_apart() -> None:
    found = false_negative_posterior(torch.tensor([0.8, 0.2]), normal(0.8, 0), normal(0.2, 0), 10_000)
    assert found.tolist() == [1, 0]


def test_half_precision_tells_narrow_populations_apart() -> None:
    positive, negative = (
        SimpleNamespace(mean=torch.tensor(mean).half(), variance=torch.zeros(()).half()) for mean in (0.75, 0.25)
    )
    found = false_negative_posterior(torch.tensor([0.75, 0.25]).half(), positive, negative, 10_000)
    assert found.tolist() == [1, 0]
