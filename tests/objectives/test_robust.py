"""DCL's and HCL's corrected denominator, RINCE and RCL, against their formulas written out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from pipeline.objectives.complementary import complementary_loss
from pipeline.objectives.contrastive import infonce_loss
from pipeline.objectives.debiased import debiased_loss
from pipeline.objectives.rince import rince_loss
from pipeline.sampling.hard import hcl_weights

GENERATOR = torch.Generator().manual_seed(0)
SIMILARITY = torch.rand(4, 5, generator=GENERATOR, dtype=torch.float64) * 2 - 1
OWN = torch.rand(4, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = (torch.rand(4, 5, generator=GENERATOR) < 0.7).double()
ROWS = list(zip(SIMILARITY.tolist(), OWN.tolist(), WEIGHTS.tolist(), strict=True))


def terms(row: list[float], weights: list[float], temperature: float) -> list[float]:
    return [w * math.exp(s / temperature) for s, w in zip(row, weights, strict=True)]


@pytest.mark.parametrize(("temperature", "prior"), [(0.5, 0.1), (0.5, 0.6), (0.05, 0.1)])
def test_debiased(temperature: float, prior: float) -> None:
    slow = []
    for row, own, weights in ROWS:
        count, positive = sum(weights), math.exp(own / temperature)
        negative = (sum(terms(row, weights, temperature)) - count * prior * positive) / (1 - prior)
        negative = max(negative, count * math.exp(-1 / temperature))
        slow.append(-math.log(positive / (positive + negative)))
    assert debiased_loss(SIMILARITY, OWN, WEIGHTS, temperature, prior).tolist() == pytest.approx(slow)


def test_debiased_with_hcl_s_weights_is_hcl_and_without_a_prior_infonce() -> None:
    weights_BC = hcl_weights(SIMILARITY, WEIGHTS == 0, 0.5, 1.0)
    slow = []
    for row, own, weights in ROWS:
        kept = [s for s, w in zip(row, weights, strict=True) if w]
        importance = [math.exp(s / 0.5) for s in kept]
        reweighted = sum(i * math.exp(s / 0.5) for i, s in zip(importance, kept, strict=True))
        reweighted /= sum(importance) / len(importance)
        negative = max((reweighted - len(kept) * 0.1 * math.exp(own / 0.5)) / 0.9, len(kept) * math.exp(-1 / 0.5))
        slow.append(-math.log(math.exp(own / 0.5) / (math.exp(own / 0.5) + negative)))
    assert debiased_loss(SIMILARITY, OWN, weights_BC, 0.5, 0.1).tolist() == pytest.approx(slow)
    plain_B = infonce_loss(SIMILARITY, OWN, WEIGHTS, 0.5)
    torch.testing.assert_close(debiased_loss(SIMILARITY, OWN, WEIGHTS, 0.5, 1e-12), plain_B)


@pytest.mark.parametrize(("temperature", "lonely"), [(0.005, []), (0.5, [1, 3])])
def test_debiased_is_finite_where_exponentials_are_not_and_without_a_negative(
    temperature: float, lonely: list[int]
) -> None:
    similarity_BC, weights_BC = SIMILARITY.float().requires_grad_(), WEIGHTS.float()
    weights_BC[lonely] = 0
    loss_B = debiased_loss(similarity_BC, OWN.float(), weights_BC, temperature, 0.1)
    assert not loss_B[lonely].any(), "nothing to tell apart"
    loss_B.sum().backward()
    assert similarity_BC.grad is not None
    assert bool(loss_B.isfinite().all() & similarity_BC.grad.isfinite().all())


def test_rince() -> None:
    slow = []
    for row, own, weights in ROWS:
        positive = math.exp(own / 0.5)
        every = positive + sum(terms(row, weights, 0.5))
        slow.append(-(positive**0.4) / 0.4 + (0.01 * every) ** 0.4 / 0.4)
    assert rince_loss(SIMILARITY, OWN, WEIGHTS, 0.5, 0.4, 0.01).tolist() == pytest.approx(slow)


def test_rince_near_0_is_infonce() -> None:
    found_B = rince_loss(SIMILARITY, OWN, WEIGHTS, 0.5, 1e-7, 1.0)
    torch.testing.assert_close(found_B, infonce_loss(SIMILARITY, OWN, WEIGHTS, 0.5), rtol=1e-4, atol=1e-4)


FORMS: dict[str, Callable[[float], float]] = {
    "log": lambda p: -math.log(1 - p),
    "tan": math.tan,
    "abs": lambda p: p,
    "exp": lambda p: math.exp(-(1 - p)),
    "gce": lambda p: (1 - (1 - p) ** 0.5) / 0.5,
}


@pytest.mark.parametrize("form", FORMS)
def test_rcl(form: str) -> None:
    slow = []
    for row, own, weights in ROWS:
        each = terms(row, weights, 0.3)
        total = math.exp(own / 0.3) + sum(each)
        slow.append(sum(FORMS[form](e / total) for e, w in zip(each, weights, strict=True) if w))
    assert complementary_loss(SIMILARITY, OWN, WEIGHTS, 0.3, form).tolist() == pytest.approx(slow)


def test_rcl_never_pulls_on_the_own_pair_alone() -> None:
    own_B = OWN.clone().requires_grad_()
    complementary_loss(SIMILARITY, own_B, torch.zeros_like(WEIGHTS), 0.3, "log").sum().backward()
    assert own_B.grad is not None
    assert own_B.grad.tolist() == [0] * 4
