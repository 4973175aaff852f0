"""Stage `evidence` and what reads it, on pictures whose truth is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.data.splits.format import Split, read_split, write_split
from pipeline.data.splits.truth_file import read_noise, read_truth
from pipeline.errors import InputError
from pipeline.evidence.kinds import SplitEvidence
from pipeline.evidence.make import _fitted, described
from pipeline.evidence.posterior import Posterior, fit_posterior
from pipeline.evidence.table import (
    PUBLISHED_PRIOR,
    evidence_prior,
    prior_of,
    read_listed,
    read_pairs,
    read_posterior,
    trust_quality,
    used_kinds,
)
from pipeline.evidence.words import WordCoverage
from pipeline.retrieval.relevance import ranking_quality
from tests.paper import PAPER
from tests.stages.running import run, run_in, work_in, write_tiny_params
from tests.training.making import params_with

SCENES = {
    "data__scenes__train": 200,
    "data__scenes__val": 60,
    "data__scenes__test": 60,
    "data__noise__ratio": 0.4,
    "base__epochs": 0,
}
EVIDENCE = Path("evidence")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("made"), "download", "split", "base", "features", "evidence", **SCENES)


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(made, monkeypatch)


def test_wrong_pairs_are_found_without_labels(here: Path) -> None:
    noise = read_noise(here / "data/split")
    assert noise is not None
    auc = ranking_quality(
        -read_pairs(EVIDENCE, "train", read_split(here / "data/split/train.json"))["trust_M"],
        torch.from_numpy(noise.wrong_M),
    )["auc"]
    assert auc > 0.8
    quality = trust_quality(EVIDENCE, here / "data/split")
    assert quality["auc"] == pytest.approx(auc)
    assert 0 < quality["ece"] < 0.2


def test_unpaired_pairs_that_match_have_a_high_posterior(here: Path) -> None:
    split, truth = read_split(here / "data/split/test.json"), read_truth(here / "data/split", "test")
    assert truth is not None
    images, captions = torch.arange(len(split.images)), torch.arange(len(split.captions))
    posterior_NM = read_listed(EVIDENCE, "test", split, 300.0)(images, captions, to_text=True)
    true_NM = torch.zeros_like(posterior_NM, dtype=torch.bool)
    true_NM[truth.image_P[truth.true_P], truth.caption_P[truth.true_P]] = True
    unpaired_NM = torch.tensor(split.caption_image)[None, :] != images[:, None]
    listed_NM = posterior_NM > 0
    assert not listed_NM[~unpaired_NM].any()
    assert true_NM[listed_NM].double().mean() > 10 * true_NM[unpaired_NM].double().mean()


def test_the_prior_is_the_estimate_or_the_given_one(here: Path) -> None:
    estimate = read_posterior(EVIDENCE)[1].prior
    assert prior_of("estimated", EVIDENCE) == estimate > 1
    assert prior_of(50, EVIDENCE) == 50
    for posterior, prior in (("evidence", 50.0), ("similarity", estimate)):
        sampler = params_with(sampler__posterior=posterior, sampler__prior=50.0).sampler
        assert evidence_prior(sampler, EVIDENCE) == prior, "FNE's K is not that of the evidence"
    split = read_split(here / "data/split/train.json")
    ids = torch.arange(20)
    likely, unlikely = (read_listed(EVIDENCE, "train", split, K)(ids, ids * 5, to_text=True) for K in (2.0, 1e6))
    assert (likely > unlikely)[likely > 0].all()


def test_pairs_of_an_image_that_the_split_lacks_are_refused(here: Path) -> None:
    split = read_split(here / "data/split/train.json")
    last = int(read_pairs(EVIDENCE, "train", split)["image_P"].max())
    fewer: Any = SimpleNamespace(images=split.images[:last], captions=split.captions)
    with pytest.raises(InputError, match=rf"not of the {last} images .* of train\.json; run `dvc repro evidence`"):
        read_pairs(EVIDENCE, "train", fewer)


def test_frozen_features_give_vectors_and_better_evidence(heads_clone: Path) -> None:
    kinds = ["captions", "regression", "pictures"]
    write_tiny_params(heads_clone, model__train="heads", evidence__kinds=kinds)
    run("evidence")
    names, posterior = read_posterior(EVIDENCE)
    assert names == kinds
    assert not posterior.positive.mean_F.isnan().any()
    assert (EVIDENCE / "train" / "captions-00000.safetensors").exists()


def test_a_data_set_with_one_caption_an_image_says_what_there_is_none_of(heads_clone: Path) -> None:
    for name in ("train", "val", "test"):
        path = Path("data/split") / f"{name}.json"
        split = read_split(path)
        first = {image: caption for caption, image in reversed(list(enumerate(split.caption_image)))}
        single = Split.of(
            [(split.images[image], [split.captions[caption]]) for image, caption in sorted(first.items())]
        )
        write_split(path, single, one_row_a_caption=name == "train")
    Path("data/split/noise.json").unlink()
    write_tiny_params(heads_clone, model__train="heads", evidence__kinds=["captions", "regression"])
    said = run("features", "evidence")
    assert "no captions: no image has a second caption" in said
    assert "evidence from regression: 0 of " in said, "no bound: it hardly tells pairs from random ones"
    write_tiny_params(heads_clone, model__train="heads", evidence__kinds=["words"])
    assert "no evidence: it suspects, drops and lists no pair" in run("evidence")
    split, ids = read_split(Path("data/split/train.json")), torch.arange(5)
    assert not read_listed(EVIDENCE, "train", split, "estimated")(ids, ids, to_text=True).any()
    assert prior_of("estimated", EVIDENCE) == 10_000
    with pytest.raises(InputError, match=r"evidence\.json: this data has no evidence of evidence\.kinds \['words'\]"):
        read_pairs(EVIDENCE, "train", split)


def test_evidence_that_tells_nothing_suspects_nobody_and_says_so(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every unpaired pair would be as probable as a pair: all suspected, all dropped."""
    shutil.copytree(here, tmp_path / "clone")
    work_in(tmp_path / "clone", monkeypatch)
    val = read_split(Path("data/split/val.json"))
    mixed = [(image, val.captions[row :: len(val.images)]) for row, image in enumerate(val.images)]  # not its own
    write_split(Path("data/split/val.json"), Split.of(mixed), one_row_a_caption=False)
    said = run("evidence")
    assert "warning: it hardly tells the pairs of val.json from random ones (AUC 0." in said
    assert read_posterior(EVIDENCE)[1].prior == PUBLISHED_PRIOR
    assert len(read_pairs(EVIDENCE, "train", read_split(Path("data/split/train.json")))["image_P"]) == 0


def test_a_kind_that_is_not_higher_where_pairs_match_is_no_evidence() -> None:
    draw = torch.Generator().manual_seed(1)
    positive_KF, negative_KF = (torch.randn(500, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    posterior = fit_posterior(positive_KF + torch.tensor([2.0, -2.0]), negative_KF, prior=100)
    record = {
        **{"kinds": ["words", "phrases"], "seen": {"words": 1.0, "phrases": 1.0}, "encoders": {}, "auc": 0.9},
        **{"posterior": posterior.as_numbers(), "train": {"listed": 1, "pairs": 2, "trust_mean": 0.9}},
    }
    assert used_kinds(record) == ["words"]
    first, *others = described(record)
    assert first.startswith("evidence from words: at least 1 in 100 ")
    assert others == ["phrases left out of the posterior: not higher in val.json where pairs match"]


def fitted_to_words(captions: list[str], image_M: torch.Tensor) -> tuple[Posterior, float]:
    """The posterior of the captions' words, which are all equally rare, and its AUC."""
    idf = {word: 1.0 for caption in captions for word in caption.split()}
    fitted = _fitted(SplitEvidence(["words"], image_M, {"words": WordCoverage(captions, image_M, idf)}), seed=1)
    assert fitted is not None
    return fitted


def test_images_of_one_caption_do_not_make_good_evidence_bad() -> None:
    """Their captions have no word evidence, so that nothing is known of them, for or against."""
    image_M = torch.cat([torch.arange(300), torch.arange(20)])  # 280 of 300 images have one caption
    posterior, auc = fitted_to_words([f"own{image} other{image}" for image in image_M.tolist()], image_M)
    assert auc > 0.99
    assert posterior.prior != PUBLISHED_PRIOR


@pytest.mark.parametrize(("told", "estimated"), [(0.3, False), (0.5, True)])
def test_the_prior_is_estimated_from_evidence_with_an_auc_of_0_7(told: float, estimated: bool) -> None:
    """The captions of some images have a word of their own: the AUC is a half and half of their share."""
    image_M = torch.arange(400).repeat_interleave(2)
    words = [f"own{image}" if image < told * 400 else f"alone{row}" for row, image in enumerate(image_M.tolist())]
    posterior, auc = fitted_to_words([f"a {word}" for word in words], image_M)
    assert auc == pytest.approx(0.5 + told / 2, abs=0.02)
    assert (posterior.prior != PUBLISHED_PRIOR) == estimated


def test_a_few_pairs_are_not_counted_again_and_again() -> None:
    """Of 12 images with 24 captions, 264 pairs are unpaired: nothing rarer than one of them can be told."""
    image_M = torch.arange(12).repeat_interleave(2)
    posterior, _ = fitted_to_words([f"own{image}" for image in image_M.tolist()], image_M)
    assert posterior.prior == pytest.approx(264, rel=1e-3)


def test_without_kinds_nothing_is_made(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(here, tmp_path / "clone")
    paper = {f"sampler__{name}": value for name, value in PAPER.items()}
    write_tiny_params(work_in(tmp_path / "clone", monkeypatch), **SCENES, **paper, evidence__kinds=[])
    run("evidence")
    assert [path.name for path in EVIDENCE.rglob("*")] == ["evidence.json"]
    with pytest.raises(InputError, match=r"evidence\.kinds"):
        read_posterior(EVIDENCE)
