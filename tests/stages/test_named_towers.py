"""Towers that people bring, through every stage: dual encoders as they are and trained, and those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from pipeline.models.small import word_tokenizer
from tests.models.test_dual import TEXT, VISION, published
from tests.stages.running import STAGES, finite, invoke, run, write_tiny_params


def towers(folder: Path, *, positions: int = 64, patch: int = 16) -> dict[str, Any]:
    """A ViT and a BERT in folders, as parameters."""
    ViTModel(ViTConfig(**VISION | {"patch_size": patch, "image_size": 64}), add_pooling_layer=False).save_pretrained(
        folder / "vit"
    )
    BertModel(BertConfig(**TEXT | {"max_position_embeddings": positions}), add_pooling_layer=False).save_pretrained(
        folder / "bert"
    )
    word_tokenizer(["a", "red", "dot"]).save_pretrained(folder / "bert")
    return {"model__image": str(folder / "vit"), "model__text": str(folder / "bert")}


@pytest.mark.parametrize("train", ["towers", "heads"])
def test_a_dual_encoder_is_evaluated_and_audited_as_it_is(train: str, clone: Path) -> None:
    published("SiglipModel", clone / "siglip")
    named = {"model__family": "clip", "model__image": "siglip", "model__train": train}
    write_tiny_params(clone, train__epochs=0, **named)
    said = run(*STAGES)
    assert "nothing trained" in said
    metrics = json.loads((clone / "metrics.json").read_text())
    assert finite(metrics)
    assert (clone / "report/index.html").exists()


@pytest.mark.parametrize("kind", ["SiglipModel", "ChineseCLIPModel"])
def test_a_dual_encoder_is_trained(kind: str, clone: Path) -> None:
    published(kind, clone / "dual")
    write_tiny_params(clone, model__family="clip", model__image="dual", train__gradient_checkpointing=True)
    run(*STAGES[: STAGES.index("audit")])
    before, after = ((clone / "models" / part / "image/model.safetensors").read_bytes() for part in ("base", "trained"))
    assert len(before) == len(after)
    assert before != after


def test_a_whole_dual_encoder_serves_as_two_towers(clone: Path) -> None:
    published("VisionTextDualEncoderModel", clone / "dual")
    write_tiny_params(clone, model__image="dual", model__text="dual")
    run("download", "split", "base", "features", "evidence", "bank", "train")


def test_a_caption_longer_than_the_towers_positions_is_cut(clone: Path) -> None:
    write_tiny_params(clone, **towers(clone, positions=4))
    run("download", "split", "base", "features", "evidence", "bank", "train")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patch": 48}, "error: model.image = '{}/vit': a vit does not encode an image of 32 pixels"),
        ({"model__text": "vit"}, "error: model.text = 'vit': a vit cannot encode captions alone"),
        ({"model__image": "bert"}, "error: model.image = 'bert': a bert cannot encode images alone"),
    ],
)
def test_what_cannot_encode_is_refused_by_base(changes: dict[str, Any], expected: str, clone: Path) -> None:
    named = towers(clone, patch=changes.pop("patch", 16))
    write_tiny_params(clone, **named | changes)
    run("download", "split")
    result = invoke("base")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith(expected.format(clone))
    assert not (clone / "models/base").exists()
