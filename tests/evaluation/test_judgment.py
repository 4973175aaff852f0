"""Judging a split: what is reported, what each query contributed, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pipeline.data.splits.truth_file import Truth
from pipeline.errors import InputError
from pipeline.evaluation import unpaired
from pipeline.evaluation.judgment import (
    Encoded,
    check_folds,
    judge,
    judgment_intervals,
    recall_curve,
    similarity_curves,
)
from pipeline.evaluation.unpaired import reliability_curve
from pipeline.retrieval.uncertainty import figures
from pipeline.training.record import Moment, SamplerRecord

POPULATIONS = {
    "positive": {"mean": 0.8, "variance": 0.02, "count": 50.0},
    "negative": {"mean": 0.1, "variance": 0.05, "count": 100.0},
}
MOMENT = Moment.model_validate({"epoch": 1, "step": 8, "statistics": POPULATIONS})
CURVE = ["source", "score", "low", "high", "mean_posterior", "true_share", "count"]
SAMPLER = SamplerRecord(cutdown=0.5, alpha=2.0, suspect_alpha=3.0, suspect=0.3, prior=100.0, min_matches=30)


@pytest.fixture
def encoded() -> Encoded:
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(24).repeat_interleave(torch.tensor([1, 2, 3] * 8))
    image_ND = normalize(torch.randn(24, 8, generator=generator), dim=1)
    text_MD = normalize(image_ND[owner] + 0.4 * torch.randn(len(owner), 8, generator=generator), dim=1)
    return Encoded(image_ND, text_MD, owner)


def known(encoded: Encoded, *, exact: bool, seed: int = 0) -> Truth:
    """Own pairs are true, and one in ten others; judged truth names a third of all pairs, with a verdict each."""
    generator = np.random.default_rng(seed)
    image, caption = (grid.ravel() for grid in np.mgrid[: len(encoded.image_ND), : len(encoded.text_MD)])
    true = (encoded.caption_image_M.numpy()[caption] == image) | (generator.random(len(image)) < 0.1)
    kept = true if exact else generator.random(len(image)) < 0.3
    asked = np.ones(kept.sum(), dtype=bool)
    return Truth(exact, "by a test", image[kept], caption[kept], true[kept], {"i2t": asked, "t2i": asked})


def flat(report: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in report.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("folds", [1, 3])
def test_the_table_of_queries_holds_every_figure_of_the_report(folds: int, encoded: Encoded) -> None:
    truths = {"crowd": known(encoded, exact=False), "expert": known(encoded, exact=False, seed=1)}
    judgment = judge(encoded, folds, truths, MOMENT, SAMPLER)
    report = flat(judgment.report)
    qualities = {name for name in report if name.startswith(("posterior", "similarity", "near"))}
    assert {"truth/i2t/mAP@R", "truth_expert/t2i/R-P", "posterior/auc", "similarity_expert/ap"} <= set(report)
    assert figures(judgment.queries) == pytest.approx({name: report[name] for name in report.keys() - qualities})


def test_every_figure_has_an_interval_around_it(encoded: Encoded) -> None:
    truths = {"scenes": known(encoded, exact=True), "expert": known(encoded, exact=False)}
    judgment = judge(encoded, 1, truths, MOMENT, SAMPLER)
    limits: dict[str, Any] = flat(judgment_intervals(judgment, replicates=200, seed=1))
    report = {name: value for name, value in flat(judgment.report).items() if not name.endswith("/ece")}
    assert limits.keys() == report.keys()
    for name, value in report.items():
        low, high = limits[name]
        assert low <= value <= high, name


def test_the_seed_decides_every_interval(encoded: Encoded) -> None:
    judgment = judge(encoded, 1, {"scenes": known(encoded, exact=True)}, MOMENT, SAMPLER)
    one, same, other = (flat(judgment_intervals(judgment, replicates=50, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert all(one[name] != other[name] for name in ("rsum", "truth/i2t/mAP@R", "posterior/auc"))


def test_the_curve_of_recall_is_recall_at_each_depth() -> None:
    curve = recall_curve([(torch.tensor([0, 2, 1]), torch.tensor([0, 0, 5, 1]))])
    assert curve.to_dict("list") == {
        "K": [1, 2, 3],
        "image to text": pytest.approx([100 / 3, 200 / 3, 100]),
        "text to image": [50, 75, 75],
    }


@pytest.mark.parametrize("folds", [1, 3])
def test_the_curve_of_recall_is_the_reports(folds: int, encoded: Encoded) -> None:
    judgment = judge(encoded, folds, {}, MOMENT, SAMPLER)
    curve = recall_curve(judgment.ranks).set_index("K")
    assert len(curve) == 24 // folds
    for direction, column in (("i2t", "image to text"), ("t2i", "text to image")):
        for depth in (1, 5):
            assert curve.loc[depth, column] == pytest.approx(judgment.report[direction][f"R{depth}"])


def test_what_is_known_to_be_true_counts_as_right() -> None:
    generator = torch.Generator().manual_seed(1)
    image_ND, text_MD = (normalize(torch.randn(rows, 3, generator=generator), dim=1) for rows in (30, 60))
    owner = [number // 2 for number in range(60)]
    rng = np.random.default_rng(1)
    image_P, caption_P, true_P = rng.integers(30, size=200), rng.integers(60, size=200), rng.random(200) < 0.3
    asked = {direction: np.ones(200, dtype=bool) for direction in ("i2t", "t2i")}
    truth = Truth(False, "", image_P, caption_P, true_P, asked)
    right = {(image, caption) for caption, image in enumerate(owner)}
    right |= {(int(i), int(m)) for i, m, true in zip(image_P, caption_P, true_P, strict=True) if true}
    similarity = (image_ND @ text_MD.T).tolist()
    total = 0.0
    for queries, of in ((range(30), lambda q, a: (q, a)), (range(60), lambda q, a: (a, q))):
        answers = range(60) if len(queries) == 30 else range(30)
        ranks = []
        for q in queries:
            score = {a: similarity[of(q, a)[0]][of(q, a)[1]] for a in answers}
            best = max(value for a, value in score.items() if of(q, a) in right)
            ranks.append(sum(value >= best for a, value in score.items() if of(q, a) not in right))
        total += sum(100 * sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10))
    encoded = Encoded(image_ND, text_MD, torch.tensor(owner))
    report = judge(encoded, 3, {"crowd": truth}, MOMENT, SAMPLER).report
    assert report["judged"]["rsum"] == pytest.approx(total, abs=1e-4)
    without = Truth(False, "", image_P, caption_P, np.zeros(200, dtype=bool), asked)
    own_alone = judge(encoded, 1, {"crowd": without}, MOMENT, SAMPLER).report
    assert own_alone["judged"]["rsum"] == pytest.approx(own_alone["rsum"])


def test_evidence_is_compared_and_changes_nothing_else(encoded: Encoded) -> None:
    """The nearest 50 of 48 captions are all: where the evidence is the truth, it is right everywhere."""
    truth = known(encoded, exact=True)
    true = set(zip(truth.image_P[truth.true_P].tolist(), truth.caption_P[truth.true_P].tolist(), strict=True))

    def oracle(image_P: torch.Tensor, caption_P: torch.Tensor) -> torch.Tensor:
        pairs = zip(image_P.tolist(), caption_P.tolist(), strict=True)
        return torch.tensor([float(pair in true) for pair in pairs], dtype=torch.float64)

    without = judge(encoded, 1, {"scenes": truth}, MOMENT, SAMPLER)
    found = judge(encoded, 1, {"scenes": truth}, MOMENT, SAMPLER, oracle)
    assert found.report.pop("evidence") == found.report["near"].pop("evidence") == {"auc": 1, "ap": 1, "ece": 0}
    assert found.report == without.report
    assert found.queries.equals(without.queries)


def test_near_are_the_most_similar_unpaired_captions_of_each_image(encoded: Encoded) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpaired, "NEAREST", 3)
        pairs = judge(encoded, 1, {"scenes": known(encoded, exact=True)}, MOMENT, SAMPLER).unpaired["scenes"]
    for image in range(24):
        chosen = pairs.image_P == image
        highest = pairs.similarity_P[chosen].topk(3).values
        assert pairs.similarity_P[chosen & pairs.near_P].sort(descending=True).values.tolist() == highest.tolist()


def test_a_query_that_was_not_asked_is_not_judged(encoded: Encoded) -> None:
    whole = known(encoded, exact=True)
    some = whole.image_P < 5
    truth = Truth(True, "", whole.image_P, whole.caption_P, whole.true_P, {"i2t": some, "t2i": ~some & False})
    judgment = judge(encoded, 1, {"eccv": truth}, MOMENT, SAMPLER)
    assert set(judgment.report["truth"]) == {"i2t"}
    graded = judgment.queries.dropna(subset="mAP@R")
    assert (graded["direction"] + graded["query"].astype(str)).tolist() == [f"i2t{image}" for image in range(5)]
    everything = judge(encoded, 1, {"scenes": whole}, MOMENT, SAMPLER).queries
    assert graded["mAP@R"].tolist() == pytest.approx(everything["mAP@R"][:5].tolist())
    assert set(judgment.unpaired["eccv"].image_P.tolist()) == set(range(5))


def test_the_reliability_curve_counts_every_unpaired_pair(encoded: Encoded) -> None:
    judgment = judge(encoded, 1, {"scenes": known(encoded, exact=True)}, MOMENT, SAMPLER)
    curve = reliability_curve(judgment.unpaired)
    assert curve["count"].sum() == len(encoded.image_ND) * len(encoded.text_MD) - len(encoded.text_MD)
    assert set(curve["source"]) == {"scenes"}
    assert list(curve) == CURVE


def test_without_truth_the_curve_is_empty_and_nothing_is_claimed(encoded: Encoded) -> None:
    judgment = judge(encoded, 1, {}, MOMENT, SAMPLER)
    assert set(judgment.report) == {"i2t", "t2i", "rsum"}
    curve = reliability_curve(judgment.unpaired)
    assert curve.empty and list(curve) == CURVE


@pytest.mark.parametrize(("matches", "suspected"), [(30, False), (31, True)])
def test_the_curve_of_weights_is_what_training_would_give(matches: int, suspected: bool, encoded: Encoded) -> None:
    """The posterior counts only once more than `min_matches` pairs have matched."""
    populations = POPULATIONS | {"positive": POPULATIONS["positive"] | {"count": float(matches)}}
    moment = Moment.model_validate({"epoch": 1, "step": 8, "statistics": populations})
    curves = similarity_curves(encoded, moment, SAMPLER)
    own = (encoded.image_ND[encoded.caption_image_M] * encoded.text_MD).sum(dim=1).clamp(max=1).double().mean().item()
    expected = []
    for at, chance in zip(curves["similarity"], curves["posterior"], strict=True):
        weight = np.exp(-3.0 * chance if suspected and chance > 0.3 else -2.0 * (at - own) ** 2)
        expected.append(weight if at > 0.8 - 0.5 else 0.0)
    assert curves["weight"].tolist() == pytest.approx(expected)
    assert (curves["posterior"] > 0.3).any() and 0 in expected


@pytest.mark.parametrize("folds", [1, 2, 3, 24])
def test_folds_that_divide_the_images_are_taken(folds: int) -> None:
    check_folds(folds, 24)


@pytest.mark.parametrize("folds", [5, 25, 48])
def test_other_folds_are_refused_with_those_that_would_do(folds: int) -> None:
    with pytest.raises(InputError, match=rf"evaluate.folds = {folds}: .*24 images .*possible: 1, 2, 3, 4, 6, 8, 12$"):
        check_folds(folds, 24)
    with pytest.raises(InputError, match=r"6 images .*possible: 1, 2, 3, 6$"):
        check_folds(folds, 6)
