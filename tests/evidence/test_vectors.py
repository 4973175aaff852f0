"""Encoders that params.yaml names for the evidence: which vectors they give, what is recorded, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.features.shards import all_features
from pipeline.models.small import small_image_backbone, small_text_backbone
from tests.stages.running import invoke, run, work_in, write_tiny_params

EVIDENCE = Path("evidence")
KINDS = ["captions", "regression", "pictures"]
NORMALISATION = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.fixture
def towers(towers_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features for towers that are trained end to end, and the base towers again as local folders `vit` and `bert`."""
    here = tmp_path / "clone"
    shutil.copytree(towers_ready, here)
    work_in(here, monkeypatch)
    for side, name in (("image", "vit"), ("text", "bert")):
        shutil.copytree(here / "models/base" / side, here / name)
    own = {f"image_{name}": values for name, values in NORMALISATION.items()} | {"size": {"height": 48, "width": 48}}
    (here / "vit/preprocessor_config.json").write_text(json.dumps(own))
    return here


def evidence(here: Path, **changes: Any) -> str:
    write_tiny_params(here, **changes)
    return run("evidence")


def vectors(kind: str) -> list[Tensor]:
    return [all_features(EVIDENCE / name, kind).float() for name in ("train", "val", "test")]


def other_towers(here: Path) -> None:
    """`vit` and `bert` with other weights and another width."""
    small_image_backbone(size=32, patch=16, width=8, layers=1, heads=2).save_pretrained(here / "vit")
    vocabulary_size = json.loads((here / "bert/config.json").read_text())["vocab_size"]
    small_text_backbone(vocabulary_size=vocabulary_size, width=8, layers=1, heads=2, positions=32).save_pretrained(
        here / "bert"
    )


@pytest.mark.parametrize("prepared", ["cleaned", "raw"])
def test_named_encoders_give_the_vectors_of_frozen_features(towers: Path, prepared: str) -> None:
    """At the image encoder's own size and normalisation, and masked-mean pooled, whatever the trained towers have."""
    changes = {"evidence__kinds": KINDS, "model__captions": prepared, "model__words": 3, "model__resize": "crop"}
    said = evidence(towers, evidence__text="bert", evidence__image="vit", model__pooling="mean_all", **changes)
    assert "text encoder: bert\nimage encoder: vit" in said
    named = {"text": {"name": "bert", "revision": None}, "image": {"name": "vit", "revision": None}}
    assert json.loads((EVIDENCE / "evidence.json").read_text())["encoders"] == named
    found = vectors("captions") + vectors("images")

    base = towers / "models/base/base.json"
    base.write_text(json.dumps(json.loads(base.read_text()) | NORMALISATION))
    write_tiny_params(towers, model__train="heads", model__image_size=48, **changes)
    run("features", "evidence")
    assert json.loads((EVIDENCE / "evidence.json").read_text())["encoders"] == {}
    torch.testing.assert_close(found, vectors("captions") + vectors("images"), rtol=0, atol=2e-3)


def test_captions_alone_need_no_image_encoder_and_no_pictures(towers: Path) -> None:
    shutil.rmtree(towers / "data/raw")
    evidence(towers, evidence__kinds=["words", "captions"], evidence__text="bert")
    assert list(json.loads((EVIDENCE / "evidence.json").read_text())["encoders"]) == ["text"]
    assert not list(EVIDENCE.rglob("images-*"))


def test_one_encoder_may_be_named_and_the_anchor_stays_the_features(
    heads_ready: Path, towers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(heads_ready / "features", towers / "features", dirs_exist_ok=True)
    anchored = {"model__train": "heads", "model__anchor": "cca", "evidence__kinds": KINDS}
    evidence(towers, **anchored)
    alignment, captions = (EVIDENCE / "alignment.safetensors").read_bytes(), vectors("captions")
    other_towers(towers)
    evidence(towers, evidence__image="vit", **anchored)
    torch.testing.assert_close(captions, vectors("captions"))
    evidence(towers, evidence__text="bert", **anchored)
    assert vectors("captions")[0].shape[1] == 8
    assert (EVIDENCE / "alignment.safetensors").read_bytes() == alignment


def test_a_local_encoder_is_linked_for_dvc(towers: Path) -> None:
    evidence(towers, evidence__kinds=["captions"], evidence__text="bert")
    assert {link.resolve() for link in Path(".encoders").iterdir()} >= {towers / "bert/model.safetensors"}
    evidence(towers, evidence__kinds=[])
    assert not list(Path(".encoders").iterdir())


@pytest.mark.parametrize(
    ("text", "image", "says"),
    [
        ("./berd", "vit", "evidence.text = './berd': no such folder"),
        ("bert", "bert", "evidence.image = 'bert': a bert cannot encode images alone"),
        ("vit", "vit", "evidence.text = 'vit': a vit cannot encode captions alone"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_refused_by_its_key(towers: Path, text: str, image: str, says: str) -> None:
    write_tiny_params(towers, evidence__kinds=KINDS, evidence__text=text, evidence__image=image)
    result = invoke("evidence")
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {says}")
