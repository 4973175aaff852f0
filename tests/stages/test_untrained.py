"""`train.epochs: 0`, and heads with every option: every stage after training works, and needs no evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from pipeline.data.splits.format import read_split
from pipeline.evaluation.embedding import Embedder
from pipeline.evidence.alignment import Alignment, fit_cca
from pipeline.features.inputs import Inputs, open_inputs
from pipeline.params import load_params
from pipeline.paths import ALIGNMENT, BASE, EMBEDDINGS, EVALUATION, FEATURES, HISTORY, SPLIT, TRAINED
from pipeline.report.recall_table import read_metrics
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from tests.stages.running import refused, run, work_in, write_tiny_params


def features(split: str) -> tuple[torch.Tensor, torch.Tensor, Inputs]:
    inputs = open_inputs(load_params().model, FEATURES, SPLIT, split)
    texts = inputs.texts(range(len(inputs.caption_image)), training=False)
    assert isinstance(texts, torch.Tensor)
    return inputs.images(range(len(inputs.names))), texts, inputs


@pytest.fixture
def alignment(heads_clone: Path) -> Alignment:
    """Of the training split's features, as stage `evidence` writes it."""
    write_tiny_params(heads_clone, model__train="heads", model__anchor="cca", train__epochs=0)
    assert "alignment.safetensors: not found; `dvc repro" in refused("train")
    image_NW, text_MV, inputs = features("train")
    run("evidence")
    return fit_cca(image_NW, text_MV, inputs.caption_image)


def test_with_no_epoch_the_alignment_alone_is_evaluated(alignment: Alignment) -> None:
    assert "nothing trained" in run("train")
    ALIGNMENT.unlink()
    run("evaluate", "audit")
    metrics = read_metrics()
    assert metrics["test"] == metrics["last"]
    history = pandas.read_csv(HISTORY)
    vectors = load_file(EVALUATION / EMBEDDINGS.name)
    for split, rsum in (("val", history["val/rsum"].item()), ("test", metrics["test"]["rsum"])):
        image_NW, text_MV, inputs = features(split)
        image_ND, text_MD = alignment.image(image_NW), alignment.text(text_MV)
        expected = recalls(*retrieval_ranks(image_ND, text_MD, inputs.caption_image))["rsum"]
        assert rsum == pytest.approx(expected)
    torch.testing.assert_close(vectors["image_ND"] @ vectors["text_MD"].T, image_ND @ text_MD.T)
    statistics = json.loads(Path("train/run.json").read_text())["best"]["statistics"]
    assert statistics["positive"]["count"] > 0 < statistics["negative"]["count"]


def test_trained_heads_with_every_option_are_evaluated_and_searched_without_the_evidence(alignment: Alignment) -> None:
    options = {"model__standardise": True, "model__dropout": 0.5, "train__ema": 0.5, "train__batch_size": 16}
    write_tiny_params(Path(), model__train="heads", model__anchor="cca", train__epochs=2, **options)
    run("train")
    ALIGNMENT.unlink()
    run("evaluate")
    caption = read_split(SPLIT / "test.json").captions[0]
    found = Embedder(TRAINED, BASE).captions([caption])
    torch.testing.assert_close(found[0], load_file(EVALUATION / EMBEDDINGS.name)["text_MD"][0], rtol=1e-4, atol=1e-5)


def test_towers_that_match_already_are_evaluated_untrained(
    towers_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(towers_ready, tmp_path / "clone")
    work_in(tmp_path / "clone", monkeypatch)
    write_tiny_params(Path(), base__epochs=1, train__epochs=0, train__ema=0.9)
    run("train", "evaluate", "audit")
    for side in ("image", "text"):
        base, trained = (load_file(folder / side / "model.safetensors") for folder in (BASE, TRAINED))
        assert all(torch.equal(trained[name], value) for name, value in base.items())
