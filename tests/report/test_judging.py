"""What is known of a list at each threshold, and which pairs are to be judged next."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged, Unsure
from pipeline.report.judging import LEVELS, matching, measured, mismatched, proposed, strata_of
from pipeline.report.labels import Labelled
from tests.report.making import truth_of

IMAGES = 60
SPLIT = Split(
    tuple(f"{row}.png" for row in range(IMAGES)), tuple(f"caption {row}" for row in range(IMAGES)), tuple(range(IMAGES))
)
PLACE = torch.arange(IMAGES)
CHANCE = torch.linspace(0.02, 0.98, IMAGES, dtype=torch.float64)
COLUMNS = {"test": (PLACE, PLACE.roll(1), CHANCE)}


def judged(rows: list[int], yes: set[int], drawn: bool = True) -> Judged:
    image = np.array(rows)
    answers = np.array([row in yes for row in rows])
    return Judged(image, PLACE.roll(1).numpy()[image], answers, np.zeros(len(rows), bool), np.full(len(rows), drawn))


def test_each_threshold_counts_the_pairs_at_or_above_it() -> None:
    true = [(row, int(PLACE.roll(1)[row])) for row in range(40, IMAGES)]
    found = measured(COLUMNS, matching({"test": Labelled(SPLIT, truth_of(*true))})).levels
    for place, level in enumerate(LEVELS):
        above = CHANCE.numpy() >= level
        assert found["pairs"][place] == above.sum()
        assert found["expected"][place] == pytest.approx(CHANCE.numpy()[above].sum(), abs=0.01)
        assert found["known"][place] == above.sum(), "every pair has a truth"
        assert found["right"][place] == above[40:].sum()
        assert found["asked"][place] == 0


def test_a_pair_of_the_data_set_is_right_to_be_listed_where_it_is_wrong() -> None:
    own = {"test": (PLACE, PLACE, CHANCE)}
    answers = Judged(
        np.array([59, 58]), np.array([59, 58]), np.array([False, True]), np.ones(2, bool), np.ones(2, bool)
    )
    labelled = {"test": Labelled(SPLIT, None, answers)}
    found = measured(own, mismatched(labelled, {"test": [1, *range(1, IMAGES)]})).levels
    assert (found["known"][0], found["right"][0]) == (IMAGES, 1)
    assert (found["asked"][0], found["yes"][0]) == (2, 1)


def test_only_randomly_drawn_judgments_speak_for_the_others() -> None:
    labelled = {"test": Labelled(SPLIT, None, judged(list(range(50, 60)), set(range(50, 60)), drawn=False))}
    found = measured(COLUMNS, matching(labelled))
    assert found.judged == []
    assert found.levels["yes"][0] == 10
    drawn = replace(labelled["test"], judged=judged(list(range(0, 60, 3)), set(range(30, 60))))
    rows = measured(COLUMNS, matching({"test": drawn})).judged
    assert [row["above"] for row in rows] == [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
    first, last = rows[0]["precision"], rows[-1]["precision"]
    assert first.low < 0.5 < first.high
    assert last.value > first.value
    assert rows[0]["asked"] == 20


def test_proposals_are_spread_over_the_strata_and_never_judged_before() -> None:
    labelled = {"test": Labelled(SPLIT, None, judged([0, 1, 2, 59], set()))}
    right = matching(labelled)
    chosen = proposed(COLUMNS, right, 20, seed=1)
    assert chosen == proposed(COLUMNS, right, 20, seed=1) != proposed(COLUMNS, right, 20, seed=2)
    rows = [image for _, image, *_ in chosen]
    assert len(set(rows)) == 20
    assert not {0, 1, 2, 59} & set(rows)
    strata = Counter(strata_of(CHANCE.numpy())[[*rows, 0, 1, 2, 59]].tolist())
    assert max(strata.values()) - min(strata.values()) <= 1, "answers so far count"
    assert len(proposed(COLUMNS, right, 500, seed=1)) == IMAGES - 4


def test_a_pair_that_somebody_was_unsure_of_is_not_proposed_again_and_not_counted() -> None:
    image = np.arange(0, IMAGES, 2)
    unsure = Unsure(image, PLACE.roll(1).numpy()[image], np.zeros(len(image), bool), np.ones(len(image), bool))
    labelled = {"test": Labelled(SPLIT, None, replace(judged([1], {1}), unsure=unsure))}
    chosen = [row for _, row, *_ in proposed(COLUMNS, matching(labelled), IMAGES, seed=1)]
    assert sorted(chosen) == list(range(3, IMAGES, 2))
    levels = measured(COLUMNS, matching(labelled)).levels
    assert (levels["asked"][0], levels["yes"][0]) == (1, 1)
