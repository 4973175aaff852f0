"""Which pairs are clean, and which clean pair stands for whom, against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch.nn.functional import normalize

from pipeline.objectives.clean_pairs import SETTINGS, clean_probability, nearest_clean


def test_two_populations_of_losses_are_told_apart_and_the_lower_is_clean() -> None:
    generator = torch.Generator().manual_seed(1)
    low_M, high_M = torch.randn(600, generator=generator) * 0.3 + 2, torch.randn(400, generator=generator) * 0.5 + 6
    mixture = clean_probability(torch.cat([low_M, high_M]), seed=1)
    assert bool((mixture.clean_probability_M[:600] > 0.9).all() and (mixture.clean_probability_M[600:] < 0.1).all())
    assert mixture.mean == pytest.approx((2, 6), abs=0.1)
    assert mixture.weight == pytest.approx((0.6, 0.4), abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_the_mixture_is_fitted_to_losses_between_0_and_1_and_begins_at_the_seed(seed: int) -> None:
    # one population, of which two fits are about equally good: which one is found depends on the beginning
    loss_M = torch.rand(40, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    loss_M = (loss_M - loss_M.min()) / (loss_M.max() - loss_M.min())
    expected = GaussianMixture(**SETTINGS, random_state=seed).fit(loss_M.numpy()[:, None])
    found = clean_probability(loss_M * 50 + 7, seed)
    first = expected.means_.ravel().argmin()
    assert found.clean_probability_M.numpy() == pytest.approx(expected.predict_proba(loss_M.numpy()[:, None])[:, first])
    assert found.mean == pytest.approx(sorted(expected.means_.ravel() * 50 + 7))


def test_the_settings_are_the_published_ones() -> None:
    mixture = GaussianMixture(**SETTINGS)
    assert (mixture.n_components, mixture.max_iter, mixture.tol, mixture.reg_covar) == (2, 100, 1e-2, 5e-4)


def test_equal_losses_are_all_clean() -> None:
    mixture = clean_probability(torch.full((5,), 3.0), seed=1)
    assert mixture.clean_probability_M.tolist() == [1] * 5
    assert mixture.clean_probability_M.dtype == torch.float64
    assert (mixture.mean, mixture.weight) == ((3, 3), (1, 0))


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 9),
    clean=st.integers(1, 9),
    exclude_self=st.booleans(),
    chunk_size=st.integers(1, 10),
)
@settings(deadline=None)
def test_an_entry_is_the_most_similar_clean_pair_of_another_image(
    seed: int, queries: int, clean: int, exclude_self: bool, chunk_size: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    query_QD, clean_CD = (
        normalize(torch.randn(rows, 4, generator=generator, dtype=torch.float64), dim=1) for rows in (queries, clean)
    )
    query_image_Q, clean_image_C = (torch.randint(4, (rows,), generator=generator) for rows in (queries, clean))
    found_Q = nearest_clean(
        query_QD, query_image_Q, clean_CD, clean_image_C, exclude_self=exclude_self, chunk_size=chunk_size
    )
    for query in range(queries):
        allowed = [row for row in range(clean) if not exclude_self or clean_image_C[row] != query_image_Q[query]]
        if allowed:
            assert found_Q[query] == max(allowed, key=lambda row: float(query_QD[query] @ clean_CD[row]))
        else:
            assert 0 <= found_Q[query] < clean
