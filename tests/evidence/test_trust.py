"""Wrong pairs found before any training: on planted noise, and the mixture against its formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.splits.truth_file import Noise
from pipeline.evidence.table import quality_of
from pipeline.evidence.trust import mixture_posterior, pair_trust, trust_by
from pipeline.retrieval.relevance import calibration_error, ranking_quality
from tests.evidence.planted import Planted, planted


def noisy(pairs: Planted, ratio: float) -> tuple[Planted, Tensor]:
    """A share of the captions shuffled, and which pairs are still right."""
    generator = torch.Generator().manual_seed(1)
    moved = torch.randperm(len(pairs.caption_MV), generator=generator)[: int(ratio * len(pairs.caption_MV))]
    source_M = torch.arange(len(pairs.caption_MV))
    source_M[moved] = moved.roll(1)
    right_M = pairs.caption_image_M[source_M] == pairs.caption_image_M
    return pairs._replace(caption_MV=pairs.caption_MV[source_M]), right_M


@pytest.mark.parametrize("captions", [1, 5])
def test_shuffled_captions_are_found_with_siblings_and_without(captions: int) -> None:
    pairs, right_M = noisy(planted(1500 // captions, captions), 0.4)
    p_M = pair_trust(*pairs)
    assert ranking_quality(p_M, right_M)["auc"] > 0.97
    assert calibration_error(p_M, right_M) < 0.1
    assert float(p_M.mean()) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("captions", [1, 5])
def test_pairs_that_are_all_right_are_all_trusted(captions: int) -> None:
    assert float(pair_trust(*planted(1000 // captions, captions)).mean()) > 0.95


def test_trust_does_not_depend_on_the_captions_order_and_is_the_same_again() -> None:
    pairs, _ = noisy(planted(60, torch.arange(60) % 4 + 1), 0.3)
    p_M, order_M = pair_trust(*pairs), torch.randperm(150, generator=torch.Generator().manual_seed(3))
    shuffled = pair_trust(pairs.image_NW, pairs.caption_MV[order_M], pairs.caption_image_M[order_M])
    torch.testing.assert_close(shuffled, p_M[order_M])
    assert torch.equal(pair_trust(*pairs), p_M)
    assert not torch.equal(pair_trust(*pairs, seed=2), p_M)


def test_a_caption_without_siblings_is_judged_by_the_regression_alone() -> None:
    captions_N = torch.ones(200, dtype=torch.long).index_fill(0, torch.arange(100), 4)
    pairs, right_M = noisy(planted(200, captions_N), 0.3)
    p_M = pair_trust(*pairs)
    assert ranking_quality(p_M[400:], right_M[400:])["auc"] > 0.9
    assert ranking_quality(p_M[:400], right_M[:400])["auc"] > 0.95


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_short_numbers_are_taken(dtype: torch.dtype) -> None:
    pairs, _ = noisy(planted(100, 3), 0.3)
    p_M = pair_trust(pairs.image_NW.to(dtype), pairs.caption_MV.to(dtype), pairs.caption_image_M)
    torch.testing.assert_close(p_M, pair_trust(*pairs), atol=0.02, rtol=0)


@pytest.mark.parametrize(("images", "captions"), [(1, 1), (1, 5), (0, 1)])
def test_pairs_of_a_single_image_are_trusted(images: int, captions: int) -> None:
    assert pair_trust(*planted(images, captions)).tolist() == [1] * images * captions


def test_pairs_that_are_all_the_same_are_trusted() -> None:
    assert pair_trust(torch.ones(4, 3), torch.ones(8, 2), torch.arange(8) // 2).tolist() == [1] * 8


@pytest.mark.parametrize("images", [2, 3, 5])
def test_a_few_rows_have_some_probability(images: int) -> None:
    for captions in (1, 2):
        p_M = pair_trust(*planted(images, captions))
        assert bool(((p_M >= 0) & (p_M <= 1)).all())


def log_normal(value: float, mean: float, variance: float) -> float:
    return -((value - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2


def moments(values: list[float], weights: list[float]) -> tuple[float, float]:
    kept = [(value, weight) for value, weight in zip(values, weights, strict=True) if not math.isnan(value)]
    total = sum(weight for _, weight in kept)
    mean = sum(weight * value for value, weight in kept) / total
    return mean, sum(weight * (value - mean) ** 2 for value, weight in kept) / total


def test_the_mixture_is_expectation_and_maximisation_of_the_better_component_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    evidence_MF = torch.randn(40, 2, generator=generator, dtype=torch.float64) + torch.tensor([3.0, 1.0])
    evidence_MF[:15] -= 3
    evidence_MF[::7, 0] = torch.nan
    random_RF = torch.randn(30, 2, generator=generator, dtype=torch.float64) - torch.tensor([0.0, 2.0])
    columns, random = evidence_MF.T.tolist(), random_RF.T.tolist()
    worse = [moments(values, [1.0] * 30) for values in random]
    p = [0.5] * 40
    for _ in range(300):
        better, share = [moments(values, p) for values in columns], sum(p) / 40
        log_odds = [
            math.log(share / (1 - share))
            + sum(
                log_normal(column[m], *high) - log_normal(column[m], *low)
                for column, high, low in zip(columns, better, worse, strict=True)
                if not math.isnan(column[m])
            )
            for m in range(40)
        ]
        p = [1 / (1 + math.exp(-value)) for value in log_odds]
    assert mixture_posterior(evidence_MF, random_RF).tolist() == pytest.approx(p, abs=1e-3)


def test_evidence_that_is_the_same_everywhere_or_missing_is_left_out() -> None:
    generator = torch.Generator().manual_seed(2)
    evidence_M1, random_R1 = (torch.randn(50, 1, generator=generator).double() + shift for shift in (1.5, 0))
    nothing = torch.full((50, 1), torch.nan)
    alone_M = mixture_posterior(evidence_M1, random_R1)
    for kind, random in ((torch.ones(50, 1), torch.ones(50, 1)), (nothing, nothing)):
        found_M = mixture_posterior(torch.cat([kind, evidence_M1], dim=1), torch.cat([random, random_R1], dim=1))
        assert torch.equal(found_M, alone_M)
    missing_MF = evidence_M1.clone()
    missing_MF[0] = torch.nan
    found_M = mixture_posterior(missing_MF, random_R1)
    assert float(found_M[0]) == pytest.approx(float(found_M[1:].mean()), abs=1e-3)


def test_one_wrong_pair_has_a_quality_and_none_has_not() -> None:
    trust_M, rows = torch.tensor([0.9, 0.1, 0.8]), np.arange(3)
    for wrong_M, auc in (([False, True, False], 1.0), ([True, False, True], 0.0), ([False] * 3, None)):
        assert quality_of({"trust_M": trust_M}, Noise(rows, rows, np.array(wrong_M), 0.3)).get("auc") == auc


def test_two_images_are_compared_with_each_other_and_one_has_none_to_compare_with() -> None:
    asked = []

    def evidence(image_K: Tensor) -> Tensor:
        asked.append(image_K.tolist())
        return torch.rand(len(image_K), 1)

    assert trust_by(evidence, torch.tensor([0, 0, 0]), 1, seed=1).tolist() == [1, 1, 1] and not asked
    trust_by(evidence, torch.tensor([0, 1, 0]), 2, seed=1)
    assert asked == [[0, 1, 0], [1, 0, 1]]
