"""Published weights in the place of a training: by parameter or by `evaluate --weights`, with the same figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import BertModel, ViTModel

from pipeline.errors import InputError
from pipeline.evaluation.takeover import convert
from pipeline.models import pretrained
from pipeline.params import load_params
from pipeline.report.recall_table import read_metrics
from pipeline.training.record import read_rows
from stages.evaluate import main as evaluate
from tests.models.foreign.test_checkpoints import fne_checkpoint
from tests.models.foreign.test_openai_clip import openai_clip
from tests.stages.running import invoke, run, write_tiny_params

pytestmark = pytest.mark.whole


@pytest.fixture
def ready(towers_clone: Path) -> Path:
    """The stages before training, and FNE's checkpoint of towers that differ from the base's."""
    base = pretrained.load(towers_clone / "models/base")
    torch.manual_seed(9)
    for tower in (base.image, base.text):
        for parameter in tower.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    assert isinstance(base.image, ViTModel) and isinstance(base.text, BertModel)
    torch.save(fne_checkpoint(base.image, base.text), towers_clone / "model_best.pth.tar")
    return towers_clone


def test_an_fne_checkpoint_is_judged_with_the_pooling_it_was_trained_with(ready: Path) -> None:
    write_tiny_params(ready, model__weights="model_best.pth.tar")
    (ready / "train").mkdir()
    (ready / "train/pairs.parquet").write_text("of an earlier training")
    assert "FNE's published weights" in run("train")
    assert not (ready / "train/pairs.parquet").exists()
    record = json.loads((ready / "models/trained/model.json").read_text())
    assert record["pooling"] == "mean_all"
    assert json.loads((ready / "train/run.json").read_text())["published"]["kind"] == "fne"
    history = read_rows(ready / "train/history.csv")
    assert history[["epoch", "step"]].to_numpy().tolist() == [[0, 0]] and 0 < history["val/rsum"].item() <= 600
    run("evaluate")
    by_parameter = read_metrics()
    assert by_parameter["test"] == by_parameter["last"]

    write_tiny_params(ready)
    run("train", "evaluate")
    trained = read_metrics()
    result = CliRunner().invoke(evaluate, ["--weights", "model_best.pth.tar"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert read_metrics() == by_parameter != trained


def test_a_width_that_adds_an_untrained_projection_is_refused(ready: Path) -> None:
    write_tiny_params(ready, model__weights="model_best.pth.tar", model__width=8)
    assert "model.width = 8: adds projections with random weights to model.weights" in invoke("train").stderr


def test_of_several_processes_the_first_takes_over(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_params(ready, model__weights="model_best.pth.tar")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run("train") == ""
    assert not (ready / "models/trained").exists()
    monkeypatch.setenv("RANK", "0")
    assert "FNE's published weights" in run("train")


def test_another_family_is_refused_and_what_was_trained_stays(ready: Path) -> None:
    write_tiny_params(ready)
    run("train")
    before = (ready / "models/trained/model.json").read_bytes()
    torch.save({"epoch": 1, "name": "x", "state_dict": openai_clip(), "optimizer": {}}, ready / "npc.pt")
    write_tiny_params(ready, model__weights="npc.pt")
    result = invoke("train")
    assert result.exit_code == 1
    assert "npc.pt: NPC's towers need model.family clip, found vit_bert" in result.stderr
    assert (ready / "models/trained/model.json").read_bytes() == before


def test_an_npc_checkpoint_becomes_both_halves_and_its_scale(ready: Path) -> None:
    write_tiny_params(ready, model__family="clip")
    state = openai_clip()
    torch.save({"epoch": 3, "name": "x", "state_dict": state, "optimizer": {}}, ready / "npc.pt")
    made, model, origin = convert("npc.pt", ready / "models/base", load_params().model)
    assert made.logit_scale == pytest.approx(state["logit_scale"].item())
    assert origin == {"kind": "npc", "epoch": 3, "name": "x"}
    assert (made.image.config.model_type, made.text.config.model_type) == ("clip_vision_model", "clip_text_model")
    assert model.family == "clip"


def test_heads_have_no_whole_towers(ready: Path) -> None:
    write_tiny_params(ready, model__train="heads")
    with pytest.raises(InputError, match=r"model.weights = 'model_best.pth.tar': holds whole towers"):
        convert("model_best.pth.tar", ready / "models/base", load_params().model)
