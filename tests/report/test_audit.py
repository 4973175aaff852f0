"""The head of the page, in words."""

from __future__ import annotations

import math

import numpy as np
import pandas
import torch

from pipeline.data.splits.judgment_file import Judged
from pipeline.report.audit import Findings, statements
from pipeline.report.evidence import ListedEvidence
from pipeline.report.findings import Listing
from pipeline.report.judging import matching, measured, mismatched
from pipeline.report.labels import Labelled
from pipeline.report.pair_list import PairList
from tests.report.making import COLOURS, split_of, truth_of

PLACE = torch.arange(len(COLOURS))
SPLITS = {"test": Labelled(split_of(), truth_of())}


def listed(measure: str, how: str) -> PairList:
    return PairList(pandas.DataFrame({"split": "test", "image": [0], "caption": [1], measure: [0.5]}), measure, how, [])


def test_where_the_truth_is_known_the_sum_is_said_to_be_of_more_pairs_than_those_that_are_counted() -> None:
    chance = torch.tensor([0.9, 0.6, 0.009, 0.009], dtype=torch.float64)
    rights = matching(SPLITS), mismatched(SPLITS, {"test": [1, 0, 2, 3]})
    columns = (PLACE, PLACE.roll(1), chance), (PLACE, PLACE, chance)
    matches, wrong = (
        Listing(listed("posterior", "by hand"), measured({"test": every}, right))
        for every, right in zip(columns, rights, strict=True)
    )
    evidence = ListedEvidence({"test": {}}, {}, 100.0, "by hand", "words")
    for said, right in zip(statements(Findings(evidence, SPLITS, matches, wrong))[:2], ("0", "2"), strict=True):
        assert said.figure == right
        assert "in truth, among the 2 with a probability of at least 0.01" in said.words
        assert "; by the sum of all probabilities, also lower ones, 2 (95 %" in said.words


def test_what_judgments_say_of_the_matches_is_a_lower_bound() -> None:
    """The evidence lists two pairs of twelve; nobody was asked about the others."""
    judged = Judged(np.array([0, 1]), np.array([1, 2]), np.array([True, True]), np.zeros(2, bool), np.ones(2, bool))
    splits = {"test": Labelled(split_of(), None, judged)}
    rights = matching(splits), mismatched(splits, {})
    columns = (PLACE[:2], PLACE[:2] + 1, torch.tensor([0.9, 0.2])), (PLACE, PLACE, torch.full((4,), 0.1))
    matches, wrong = (
        Listing(listed("posterior", "by hand"), measured({"test": every}, right))
        for every, right in zip(columns, rights, strict=True)
    )
    evidence = ListedEvidence({"test": {}}, {}, 100.0, "by hand", "words")
    said = statements(Findings(evidence, splits, matches, wrong))[0]
    assert said.figure == "≥ 2"
    assert "match: so many among the 2 of 12 such pairs that the evidence lists, by your judgments" in said.words


def test_without_evidence_each_list_has_its_own_source() -> None:
    evidence = ListedEvidence({}, {}, math.nan, "test pairs by the posterior")
    suspects = Listing(listed("weight", "the training pairs that counted least"), None)
    (said,) = statements(Findings(evidence, SPLITS, Listing(listed("posterior", evidence.how), None), suspects))
    assert said.words == (
        "No evidence about this data: the list of false negatives is of test pairs by the posterior, "
        "that of wrong pairs of the training pairs that counted least."
    )
