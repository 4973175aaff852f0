"""Corrections for hubs against their formulas, written out for one query and one item at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.retrieval import hubness
from pipeline.retrieval.hubness import active_items, corrected_ranks, hubness_report, log_mass, nnn_bias
from pipeline.retrieval.recall import folded_ranks, retrieval_report

GENERATOR = torch.Generator().manual_seed(3)


def unit(rows: int) -> Tensor:
    return normalize(torch.randn(rows, 4, generator=GENERATOR).double() + 0.5, dim=1)


QUERY_QD, ITEM_ID, BANK_RD = unit(7), unit(9), unit(11)
QUERY_IMAGE, ITEM_IMAGE = [0, 1, 2, 3, 0, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3, 3]


def similarity(one: Tensor, other: Tensor) -> list[list[float]]:
    return [[float(a @ b) for b in other] for a in one]


S = similarity(QUERY_QD, ITEM_ID)
BANK = similarity(BANK_RD, ITEM_ID)


def nnn(q: int, i: int) -> float:
    return S[q][i] - 0.75 * sum(sorted((BANK[r][i] for r in range(11)), reverse=True)[:3]) / 3


def qb_norm(q: int, i: int) -> float:
    active = {max(range(9), key=lambda item: BANK[r][item]) for r in range(11)}
    if max(range(9), key=lambda item: S[q][item]) not in active:
        return S[q][i]
    return math.exp(20 * S[q][i]) / sum(math.exp(20 * BANK[r][i]) for r in range(11))


def dual_softmax(q: int, i: int) -> float:
    return S[q][i] * math.exp(20 * S[q][i]) / sum(math.exp(20 * S[other][i]) for other in range(7))


@pytest.mark.parametrize("block", [1 << 24, 20])
@pytest.mark.parametrize(("name", "score"), [("nnn", nnn), ("qb_norm", qb_norm), ("dual_softmax", dual_softmax)])
def test_ranks_are_those_of_the_formula(
    name: str, score: Callable[[int, int], float], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubness, "BLOCK", block)
    monkeypatch.setattr(hubness, "nnn_bias", lambda item, bank: nnn_bias(item, bank, k=3))
    found = corrected_ranks(QUERY_QD, ITEM_ID, torch.tensor(QUERY_IMAGE), torch.tensor(ITEM_IMAGE), BANK_RD)
    expected = []
    for q in range(7):
        best = max(score(q, i) for i in range(9) if ITEM_IMAGE[i] == QUERY_IMAGE[q])
        expected.append(sum(score(q, i) >= best for i in range(9) if ITEM_IMAGE[i] != QUERY_IMAGE[q]))
    assert found[name].tolist() == expected
    raw = [
        sum(
            S[q][i] >= max(S[q][k] for k in range(9) if ITEM_IMAGE[k] == QUERY_IMAGE[q])
            for i in range(9)
            if ITEM_IMAGE[i] != QUERY_IMAGE[q]
        )
        for q in range(7)
    ]
    assert expected != raw, "otherwise this test shows nothing"


def test_some_queries_are_left_as_they_are_by_qb_norm() -> None:
    active_I = active_items(ITEM_ID, BANK_RD)
    tops = [max(range(9), key=lambda item, q=q: S[q][item]) for q in range(7)]  # type: ignore[misc]
    assert {bool(active_I[top]) for top in tops} == {True, False}


def test_a_bank_smaller_than_k_is_used_whole() -> None:
    expected = [0.75 * sum(BANK[r][i] for r in range(11)) / 11 for i in range(9)]
    assert nnn_bias(ITEM_ID, BANK_RD).tolist() == pytest.approx(expected)
    expected = [math.log(sum(math.exp(20 * BANK[r][i]) for r in range(11))) for i in range(9)]
    assert log_mass(ITEM_ID, BANK_RD).tolist() == pytest.approx(expected)


def test_a_hub_that_answers_everything_is_put_in_its_place() -> None:
    """Items are noisy copies of their queries' images, but one image is near everything."""
    generator = torch.Generator().manual_seed(1)
    image_ND = normalize(torch.randn(40, 8, generator=generator), dim=1)
    text_MD = normalize(image_ND.repeat_interleave(2, 0) + 0.3 * torch.randn(80, 8, generator=generator) + 0.8, dim=1)
    image_ND[0] = normalize(torch.ones(8), dim=0)
    bank = normalize(torch.randn(60, 8, generator=generator) + 0.8, dim=1)
    owner_M = torch.arange(40).repeat_interleave(2)
    report = hubness_report(image_ND, text_MD, owner_M, image_ND, bank)
    plain = retrieval_report(*folded_ranks(image_ND, text_MD, owner_M, 1)[0])
    assert report["nnn"]["t2i"]["R1"] > plain["t2i"]["R1"]
    assert report["qb_norm"]["t2i"]["R1"] > plain["t2i"]["R1"]
    assert report.keys() == {"nnn", "qb_norm", "dual_softmax"}
    assert all(part.keys() == plain.keys() for part in report.values())


def test_folds_are_ranked_alone_and_averaged() -> None:
    owner_M = torch.arange(4).repeat_interleave(2)
    parts = unit(4), unit(8)
    found = hubness_report(*parts, owner_M, QUERY_QD, BANK_RD, folds=2)
    halves = [
        hubness_report(parts[0][at : at + 2], parts[1][2 * at : 2 * at + 4], owner_M[:4], QUERY_QD, BANK_RD)
        for at in (0, 2)
    ]
    for name, report in found.items():
        assert report["rsum"] == pytest.approx(sum(half[name]["rsum"] for half in halves) / 2)
