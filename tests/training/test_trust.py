"""Trust that the training learns, against the formulas written out for each pair."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Noise
from pipeline.objectives.clean_pairs import clean_probability
from pipeline.training.trust import LearnedTrust, own_probability
from tests.training.making import frozen_pairs, linear_heads, params_with, tiny_training, watched

CPU = torch.device("cpu")


def test_the_own_pairs_probability_is_the_mean_of_two_softmaxes_without_siblings() -> None:
    generator = torch.Generator().manual_seed(1)
    image_BD, text_BD = (normalize(torch.randn(5, 3, generator=generator), dim=1) for _ in range(2))
    image_id = [0, 1, 1, 2, 3]
    found_B = own_probability(image_BD, text_BD, torch.tensor(image_id), 0.1)
    for b in range(5):
        rivals = [j for j in range(5) if j == b or image_id[j] != image_id[b]]
        own = math.exp(float(image_BD[b] @ text_BD[b]) / 0.1)
        to_text = own / sum(math.exp(float(image_BD[b] @ text_BD[j]) / 0.1) for j in rivals)
        to_image = own / sum(math.exp(float(image_BD[j] @ text_BD[b]) / 0.1) for j in rivals)
        assert float(found_B[b]) == pytest.approx((to_text + to_image) / 2, rel=1e-4)


def test_crcl_moves_each_label_towards_what_the_model_says_after_the_warm_up() -> None:
    trust = LearnedTrust("crcl", 4, 1, None, CPU)
    seen, nothing = torch.tensor([2, 0]), torch.zeros(2)
    trust.update(seen, nothing, torch.tensor([0.1, 0.9]), warming_up=True)
    assert trust.trust_M.tolist() == [1, 1, 1, 1]
    expected, y = [1.0, 1.0, 1.0, 1.0], {2: 0.0, 0: 0.6}
    for _ in range(11):
        trust.update(seen, nothing, torch.tensor([y[2], y[0]]), warming_up=False)
        for pair, p in y.items():
            expected[pair] = 0.8 * expected[pair] + 0.2 * p
    assert 0 < expected[2] < 0.1
    assert trust.trust_M.tolist() == pytest.approx([expected[0], 1, 0, 1])
    trust.update(seen, nothing, torch.ones(2), warming_up=False)
    assert float(trust.trust_M[2]) == pytest.approx(0.8 * expected[2] + 0.2), "a label below 0.1 is kept"


def test_ncr_fits_a_mixture_to_the_losses_of_the_epoch_before() -> None:
    loss_M = torch.tensor([0.1, 0.2, 0.15, 3.0, 3.2, 0.12, 2.9, 0.18])
    wrong_M = np.array([False, False, False, True, True, False, True, False])
    trust = LearnedTrust("ncr", 9, 1, Noise(np.arange(9), np.arange(9), np.append(wrong_M, True), 0.4), CPU)
    trust.begin_epoch()
    for rows in torch.arange(8).split(3):
        trust.update(rows, loss_M[rows], torch.zeros(len(rows)), warming_up=True)
        assert trust.trust_M.tolist() == [1] * 9, "the epoch goes on"
    trust.begin_epoch()
    expected = clean_probability(loss_M, 1).clean_probability_M
    assert trust.trust_M[:8].tolist() == pytest.approx(expected.tolist())
    assert float(trust.trust_M[8]) == 1, "a pair that was not seen keeps its trust"
    assert trust.trust_M[3] < 0.1 < 0.9 < trust.trust_M[0]
    assert 0.5 < trust.summary()["pairs/weight_auc"] < 1
    table = trust.table(torch.arange(9) // 3)
    assert table["caption"].tolist() == list(range(9)) and table["image"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert table["weight"].tolist() == trust.trust_M.tolist()
    trust.begin_epoch()
    assert trust.trust_M[:8].tolist() == pytest.approx(expected.tolist()), "an epoch without losses changes nothing"
    trust.update(torch.tensor([3]), torch.tensor([9.0]), torch.zeros(1), warming_up=True)
    trust.begin_epoch()
    assert trust.trust_M[:8].tolist() == pytest.approx(expected.tolist()), "one loss is no mixture"


@pytest.mark.parametrize("weighting", ["ncr", "crcl"])
def test_what_a_person_judged_is_the_trust_whatever_was_learned(weighting: str) -> None:
    rows, own = np.array([1, 2, 0]), np.array([True, True, False])
    judged = Judged(rows, rows, np.array([False, True, False]), own, np.zeros(3, bool))
    trust = LearnedTrust(weighting, 4, 1, None, CPU, judged)
    assert trust.trust_M.tolist() == [1, 0, 1, 1]
    for _ in range(2):
        trust.begin_epoch()
        trust.update(torch.arange(4), torch.tensor([0.1, 0.2, 9.0, 0.3]), torch.full((4,), 0.5), warming_up=False)
    trust.begin_epoch()
    assert trust.trust_M[1:3].tolist() == [0, 1]
    assert trust.label_M[2] < 1


@pytest.mark.parametrize("weighting", ["ncr", "crcl"])
def test_the_loop_weights_by_what_it_has_learned(weighting: str, tmp_path: Path) -> None:
    settings = {"train__epochs": 3, "train__batch_size": 4, "train__warmup_epochs": 1, "memory__size": 0}
    params = params_with(pairs__weighting=weighting, loss__name="infonce", sampler__strategy="all", **settings)
    training = tiny_training(tmp_path, params, linear_heads(), frozen_pairs(tmp_path / "inputs"))
    assert training.learned is not None
    seen = watched(training)
    at = training.run()
    assert len(seen) == 9
    means = [row["pairs/weight_mean"] for row in at.history]
    assert means[:3] == [1, 1, 1]
    assert min(means[3:]) < 0.9
    assert all(0 <= mean <= 1 for mean in means)
    table = training.learned.table(training.train_inputs.caption_image)
    assert table["weight"].tolist() == training.learned.trust_M.tolist()
    assert bool(training.learned.loss_M.isfinite().all())
