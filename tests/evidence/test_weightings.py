"""Published ways to trust a pair: each against its formula written out, and on planted and generated noise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.data.splits.format import read_split
from pipeline.data.splits.truth_file import read_noise
from pipeline.errors import InputError
from pipeline.evidence.regression import out_of_fold_images
from pipeline.evidence.table import pair_weights, read_pairs
from pipeline.evidence.weightings import (
    lemon_scores,
    log_normalisers,
    nearest_pairs,
    osa_weights,
    structure_agreement,
    weighting_trust,
)
from pipeline.features.shards import all_features
from pipeline.params import BEFORE_TRAINING
from pipeline.retrieval.relevance import ranking_quality
from tests.evidence.planted import planted
from tests.evidence.test_trust import noisy
from tests.stages.running import run, run_in, write_tiny_params
from tests.training.making import params_with

IMAGE_OF_M = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])
GENERATOR = torch.Generator().manual_seed(4)
IMAGE_NV = normalize(torch.randn(5, 3, generator=GENERATOR).double(), dim=1)
CAPTION_MV = normalize(torch.randn(8, 3, generator=GENERATOR).double(), dim=1)
FROZEN_NW = normalize(torch.randn(5, 4, generator=GENERATOR).double(), dim=1)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


@pytest.mark.parametrize("monotone", [False, True])
def test_osa_scales_within_each_batch_and_bends(monotone: bool) -> None:
    score_M = torch.randn(11, generator=torch.Generator().manual_seed(2))
    found_M = osa_weights(score_M, 0.1, monotone=monotone, seed=5, batch=4)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5)).tolist()
    for batch in (order[:4], order[4:8], order[8:]):
        above = {m: max(0.0, float(score_M[m]) - 0.1) for m in batch}
        for m in batch:
            x = above[m] / max(above.values())
            if not monotone:
                expected = -(x**2) * (x - 1) * (x + 1)
            elif x < math.sqrt(0.5):
                expected = 4 * x**2 * (1 - x**2)
            else:
                expected = 1.0
            assert float(found_M[m]) == pytest.approx(expected, abs=1e-6)
    assert float(found_M[order[:4]].min()) == 0


def test_pairs_of_a_batch_below_the_threshold_have_no_weight() -> None:
    assert osa_weights(torch.tensor([0.1, 0.2]), 0.3, monotone=False, seed=1).tolist() == [0, 0]


def test_negclip_subtracts_what_image_and_caption_have_with_all_others() -> None:
    image_N, caption_M = log_normalisers(IMAGE_NV, CAPTION_MV, IMAGE_OF_M, 0.1)
    for m in range(8):
        image = IMAGE_NV[IMAGE_OF_M[m]]
        over_captions = math.log(sum(math.exp(cosine(image, CAPTION_MV[j]) / 0.1) for j in range(8)))
        over_images = math.log(sum(math.exp(cosine(IMAGE_NV[IMAGE_OF_M[j]], CAPTION_MV[m]) / 0.1) for j in range(8)))
        assert float(image_N[IMAGE_OF_M[m]]) == pytest.approx(over_captions)
        assert float(caption_M[m]) == pytest.approx(over_images)


def lemon(m: int, image: int, k: int, image_of_m: Tensor) -> float:
    x, y = IMAGE_NV[image], CAPTION_MV[m]
    others = [j for j in range(len(image_of_m)) if j != m]

    def d(one: Tensor, other: Tensor) -> float:
        return 1 - cosine(one, other)

    def pair(j: int) -> tuple[Tensor, Tensor]:
        return IMAGE_NV[image_of_m[j]], CAPTION_MV[j]

    by_image = sorted(others, key=lambda j: d(x, pair(j)[0]))[:k]
    by_caption = sorted(others, key=lambda j: d(y, pair(j)[1]))[:k]
    near = [math.exp(-0.1 * d(x, pair(j)[0]) - 5 * d(*pair(j))) * d(y, pair(j)[1]) for j in by_image]
    far = [math.exp(-0.1 * d(y, pair(j)[1]) - 5 * d(*pair(j))) * d(x, pair(j)[0]) for j in by_caption]
    return d(x, y) + 5 * sum(near) / k + 5 * sum(far) / k


def test_lemon_asks_the_neighbours_of_image_and_caption() -> None:
    image_of_m = torch.arange(5)  # one caption an image: no ties between neighbours
    near = nearest_pairs(IMAGE_NV, CAPTION_MV[:5], image_of_m, 2)
    for given_M in (image_of_m, image_of_m.roll(1)):
        found_M = lemon_scores(IMAGE_NV, CAPTION_MV[:5], image_of_m, given_M, *near)
        for m in range(5):
            assert float(found_M[m]) == pytest.approx(lemon(m, int(given_M[m]), 2, image_of_m))


def test_siblings_are_neighbours_of_a_pair_but_the_pair_itself_is_not() -> None:
    by_image_Nk, by_caption_Mk = nearest_pairs(IMAGE_NV, CAPTION_MV, IMAGE_OF_M, 2)
    assert set(by_image_Nk[2].tolist()) == {3, 4, 5}
    assert not (by_caption_Mk == torch.arange(8)[:, None]).any()
    found_M = lemon_scores(IMAGE_NV, CAPTION_MV, IMAGE_OF_M, IMAGE_OF_M, by_image_Nk, by_caption_Mk)
    assert float(found_M[3]) == pytest.approx(lemon(3, 2, 2, IMAGE_OF_M))


def test_structure_is_the_cosine_of_two_rows_of_similarities() -> None:
    image_MW = FROZEN_NW[IMAGE_OF_M]
    images_MM, captions_MM = image_MW @ image_MW.T, CAPTION_MV @ CAPTION_MV.T
    expected = [cosine(images_MM[m], captions_MM[m]) for m in range(8)]
    assert structure_agreement(FROZEN_NW, CAPTION_MV, IMAGE_OF_M).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("weighting", BEFORE_TRAINING)
def test_planted_wrong_pairs_get_less_trust(weighting: str) -> None:
    pairs, right_M = noisy(planted(300, 5), 0.4)
    image_NV = out_of_fold_images(*pairs, folds=5, seed=1)
    caption_MV = normalize(pairs.caption_MV - pairs.caption_MV.mean(0), dim=1)
    frozen_NW = normalize((pairs.image_NW - pairs.image_NW.mean(0)) / pairs.image_NW.std(0), dim=1)
    trust_M = weighting_trust(weighting, image_NV, caption_MV, pairs.caption_image_M, frozen_NW, 1)
    assert bool(((trust_M >= 0) & (trust_M <= 1)).all())
    assert trust_M.shape == right_M.shape
    auc = ranking_quality(trust_M, right_M)["auc"]
    assert auc > (0.75 if weighting in ("osa", "gsc") else 0.9), auc


@pytest.mark.parametrize("weighting", BEFORE_TRAINING)
def test_pairs_of_a_single_image_are_trusted(weighting: str) -> None:
    pairs = torch.ones(1, 3), torch.ones(2, 3), torch.zeros(2, dtype=torch.long)
    assert weighting_trust(weighting, *pairs, torch.ones(1, 3), 1).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("weighting", "kind"),
    [("gsc", "regression"), ("gsc", "similarity"), ("lemon", "regression"), ("osa", "regression")],
)
def test_stage_evidence_judges_it_and_training_uses_it(weighting: str, kind: str, heads_clone: Path) -> None:
    write_tiny_params(
        heads_clone,
        model__train="heads",
        data__noise__ratio=0.5,
        evidence__kinds=[kind],
        pairs__weighting=weighting,
        train__epochs=2,
    )
    assert "AUC of the trust against the known noise" in run("split", "features", "evidence")
    record = json.loads(Path("evidence/evidence.json").read_text())
    run("bank", "train", "evaluate")
    assert json.loads(Path("metrics.json").read_text())["test"]["trust"] == record["train"]["trust"]
    assert read_noise(Path("data/split")) is not None
    history = Path("train/history.csv").read_text().splitlines()
    means = [float(row.split(",")[history[0].split(",").index("pairs/weight_mean")]) for row in history[1:]]
    pairs = read_pairs(Path("evidence"), "train", read_split(Path("data/split/train.json")))
    assert sum(means) / len(means) == pytest.approx(float(pairs["weight_M"].mean()), abs=0.1)
    assert ("ece" in record["train"]["trust"]) is False, "a weight is no probability"
    assert not json.loads(Path("bank/bank.json").read_text()).get("clean")


def test_a_published_weight_leaves_the_trust_as_it_is(heads_clone: Path) -> None:
    """The audit lists the pairs that the evidence trusts least: OSA gives the best pair of a batch the weight 0."""
    made = []
    for weighting in ("evidence", "osa"):
        write_tiny_params(heads_clone, model__train="heads", evidence__kinds=["regression"], pairs__weighting=weighting)
        run("evidence")
        made.append(read_pairs(Path("evidence"), "train", read_split(Path("data/split/train.json"))))
    by_evidence, by_osa = made
    assert torch.equal(by_evidence["trust_M"], by_osa["trust_M"])
    assert torch.equal(pair_weights(by_evidence), by_evidence["trust_M"])
    assert float(pair_weights(by_osa).max()) <= 0.25 < float(by_osa["trust_M"].max())


def test_vectors_are_asked_for_before_any_work() -> None:
    with pytest.raises(InputError, match=r"pairs\.weighting lemon: compares frozen vectors"):
        params_with(pairs__weighting="lemon", evidence__kinds=["words"])


def test_a_few_very_low_scores_do_not_look_right() -> None:
    """The scores of right pairs spread more than those of random ones, so that a plain mixture takes both ends."""
    generator = torch.Generator().manual_seed(1)
    caption_MV = normalize(torch.randn(400, 64, generator=generator), dim=1)
    aside_MV = normalize(torch.randn(400, 64, generator=generator), dim=1)
    cosine_M1 = torch.rand(400, 1, generator=generator) * 0.9
    cosine_M1[:200] = torch.randn(200, 1, generator=generator).clamp(-2, 2) / 8  # as random vectors of this width
    cosine_M1[:8] = -0.9
    image_MV = normalize(cosine_M1 * caption_MV + (1 - cosine_M1.square()).sqrt() * aside_MV, dim=1)
    trust_M = weighting_trust("clip_score", image_MV, caption_MV, torch.arange(400), None, 1)
    order_M = (image_MV * caption_MV).sum(1).argsort()
    assert bool((trust_M[order_M].diff() >= 0).all())
    assert float(trust_M[:8].max()) < 0.6 < 0.95 < float(trust_M.max())


def test_frozen_towers_of_a_clip_are_compared_in_their_own_space(tmp_path: Path) -> None:
    changes = {"model__family": "clip", "model__train": "heads", "evidence__kinds": ["regression"]}
    stages = ("download", "split", "base", "features", "evidence")
    here = run_in(tmp_path, *stages, pairs__weighting="osa_monotone", data__noise__ratio=0.5, **changes)
    image_NV, caption_MV = (
        normalize(all_features(here / "features/train", kind).float(), dim=1) for kind in ("images", "captions")
    )
    split = read_split(here / "data/split/train.json")
    expected_M = weighting_trust("osa_monotone", image_NV, caption_MV, torch.tensor(split.caption_image), None, 1)
    weight_M = pair_weights(read_pairs(here / "evidence", "train", split))
    torch.testing.assert_close(weight_M, expected_M.float())
    mapped_NV = all_features(here / "evidence/train", "images").float()
    assert mapped_NV.shape == image_NV.shape
    assert not torch.allclose(mapped_NV, image_NV, atol=0.1)
