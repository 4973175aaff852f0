"""Judged pairs: matches are no negatives, wrong pairs weigh nothing, and the evidence is corrected."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.evidence.judged import judged_matches, judged_trust
from pipeline.evidence.lookup import read_known
from pipeline.evidence.table import read_listed
from pipeline.files import write_json, write_tensors
from tests.training.making import params_with

SPLIT = Split(("a", "b", "c"), ("1", "2", "3", "4"), (0, 0, 1, 2))


def judged(*answers: tuple[int, int, bool]) -> Judged:
    image, caption, match = (np.array(part) for part in zip(*answers, strict=True))
    own = np.array([SPLIT.caption_image[row] for row in caption]) == image
    return Judged(image, caption, match.astype(bool), own, np.zeros(len(image), bool))


def test_judged_matches_are_found_by_id_in_both_directions() -> None:
    found = judged_matches(judged((0, 2, True), (1, 0, False), (0, 0, True)), SPLIT)
    assert found is not None
    assert found(torch.arange(3), torch.arange(4), to_text=True).tolist() == [[0, 0, 1, 0], [0] * 4, [0] * 4]
    assert found(torch.tensor([2]), torch.tensor([1, 0, -1]), to_text=False).tolist() == [[0, 1, 0]]
    assert judged_matches(judged((0, 2, False), (0, 0, True)), SPLIT) is None, "an own pair is no news"


def test_a_pair_judged_wrong_weighs_nothing_and_one_judged_right_all() -> None:
    answers = judged((0, 1, False), (1, 2, True), (2, 0, False))
    assert judged_trust(torch.tensor([0.5, 0.5, 0.5, 0.5]), answers, 4).tolist() == [0.5, 0, 1, 0.5]  # type: ignore[union-attr]
    assert judged_trust(None, answers, 4).tolist() == [1, 0, 1, 1]  # type: ignore[union-attr]
    assert judged_trust(None, judged((1, 2, True)), 4) is None, "nothing to weigh"


def test_the_evidence_suspects_no_pair_that_was_judged_not_to_match(tmp_path: Path) -> None:
    numbers = {"mean": [0.0], "variance": [1.0]}
    posterior = {"positive": numbers, "negative": numbers, "temperature": 1.0, "prior": 2.0}
    write_json(tmp_path / "evidence.json", {"kinds": ["words"], "posterior": posterior})
    pairs = {
        "image_P": torch.tensor([0, 1]),
        "caption_P": torch.tensor([2, 0]),
        "log_ratio_P": torch.tensor([0.0, 0.0]),
    }
    write_tensors(tmp_path / "train/pairs.safetensors", pairs | {"trust_M": torch.ones(4)})
    every = torch.arange(3), torch.arange(4)
    listed = read_listed(tmp_path, "train", SPLIT, 2.0)(*every, to_text=True)
    corrected = read_listed(tmp_path, "train", SPLIT, 2.0, judged((0, 2, False)))(*every, to_text=True)
    assert (listed[0, 2], listed[1, 0]) == pytest.approx((0.5, 0.5))
    assert (corrected[0, 2], corrected[1, 0]) == pytest.approx((0.0, 0.5))
    assert math.isclose(float(corrected.sum()), 0.5)
    guided = params_with(
        sampler__strategy="gist",
        sampler__guide="posterior",
        sampler__prior=2.0,
        sampler__posterior="evidence",
        evidence__kinds=["words"],
    )
    for answers, guide in ((None, 0.5), (judged((0, 2, False)), 0.0)):
        known = read_known(tmp_path, SPLIT, guided, answers)
        assert known.listed is not None and float(known.listed(*every, to_text=True)[0, 2]) == guide
