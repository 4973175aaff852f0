"""Where retrieval fails: words, hubs, and what another run finds."""

from __future__ import annotations

import pandas
import pytest
import torch

from pipeline.errors import InputError
from pipeline.report.retrieval import against, hubs, retrieval_of, worst_words
from pipeline.retrieval.hubs import first_items, skewness
from tests.report.making import CONFUSED, embedded_of


def test_words_that_fail_more_often_than_all_captions_come_first() -> None:
    captions = ["a red dog"] * 12 + ["a blue dog"] * 12 + ["a rare cat"] * 3
    failed = [True] * 9 + [False] * 3 + [True] * 2 + [False] * 10 + [True] * 3
    found = worst_words(captions, failed)
    assert [(word.word, word.captions, word.failures) for word in found] == [("red", 12, 9)], (
        "cat is too rare, dog is fine"
    )


def test_a_hub_comes_first_for_captions_of_others() -> None:
    embedded = embedded_of(CONFUSED)
    first_M = first_items(embedded.text_MD, embedded.image_ND)
    assert first_M.tolist() == [0, 0, 2, 3]
    count_N = torch.bincount(first_M, minlength=4)
    assert [(hub.image, hub.first, hub.own) for hub in hubs(count_N, first_M, embedded.caption_image_M)] == [(0, 2, 1)]
    values = count_N.double()
    expected = ((values - 1) ** 3).mean() / values.std(correction=0) ** 3
    assert skewness(count_N) == pytest.approx(float(expected))
    assert skewness(torch.ones(4)) == 0


def test_a_splits_retrieval_has_every_part() -> None:
    found = retrieval_of("test", embedded_of(CONFUSED), "by hand", 2)
    assert found.overall == 0.25, "one of four captions does not find its picture"
    assert found.recalls["t2i_R1"] == 75
    assert {group.name for group in found.groups} == {"successes", "failures"}


def queries(ranks: list[int]) -> pandas.DataFrame:
    return pandas.DataFrame(
        {"direction": ["i2t", "i2t", "t2i", "t2i"], "query": [0, 1, 0, 1], "image": [0, 1, 0, 1], "rank": ranks}
    )


def test_two_runs_win_and_lose_queries_by_first_places() -> None:
    found = against("other", queries([0, 3, 0, 9]), queries([5, 0, 0, 7]), "other")
    assert (found.won, found.lost) == ({"i2t": 1, "t2i": 0}, {"i2t": 1, "t2i": 0})
    assert [(duel.direction, duel.image, duel.caption, duel.ours, duel.theirs) for duel in found.duels] == [
        ("i2t", 0, None, 1, 6),
        ("i2t", 1, None, 4, 1),
    ]
    with pytest.raises(InputError, match="other: 3 queries, not the 4 of this run"):
        against("other", queries([0] * 4), queries([0] * 4).head(3), "other")
