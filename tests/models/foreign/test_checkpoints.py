"""Checkpoints in the published formats, built here: read without running them, and worth the same afterwards."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedModel, ViTConfig, ViTModel

from pipeline.errors import InputError
from pipeline.models.foreign.checkpoints import fne_towers, read_checkpoint, recognise

pytestmark = pytest.mark.whole
VIT_SIDES = {"q": "query", "k": "key", "v": "value"}
# What transformers 4.21 called a ViT's parameters, where it does not call them so any more.
VIT_4_21 = (
    (r"^layers\.", "encoder.layer."),
    (r"attention\.([qkv])_proj", lambda found: "attention.attention." + VIT_SIDES[found[1]]),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
NAMES_OF_A_LAYER = {
    f"encoder.layer.0.{name}.{kind}"
    for name in (
        *(f"attention.attention.{side}" for side in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after"),
    )
    for kind in ("weight", "bias")
}


def vit(size: int = 8) -> ViTModel:
    return ViTModel(ViTConfig(image_size=size, patch_size=4, **SIZES)).eval()


def bert() -> BertModel:
    return BertModel(BertConfig(vocab_size=11, max_position_embeddings=6, **SIZES)).eval()


def older_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        older = name
        for pattern, replacement in VIT_4_21:
            older = re.sub(pattern, replacement, older)
        renamed[older] = value
    return renamed


def fne_checkpoint(image: ViTModel, text: BertModel) -> dict[str, Any]:
    """As FNE's training script saves it, momentum towers and queues included."""
    towers = {"visual_encoder": older_names(image.state_dict()), "text_encoder": text.state_dict()}
    towers["text_encoder"] = {**towers["text_encoder"], "embeddings.position_ids": torch.arange(6)[None]}
    state = {f"{tower}.{name}": value for tower, state in towers.items() for name, value in state.items()}
    momentum = {f"{tower}_m.{name}": value + 1 for tower, state in towers.items() for name, value in state.items()}
    queues = {
        "image_queue": torch.randn(16, 4),
        "text_queue": torch.randn(16, 4),
        "idx_queue": torch.full((1, 4), -100),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    return {
        "epoch": 8,
        "model": [{**queues, **momentum, **state}],
        "best_rsum": numpy.float64(531.25),
        "opt": argparse.Namespace(margin=0.2, milestones=[5, 15], data_path="data", seed=None),
        "Eiters": 41250,
    }


def base_folder(folder: Path, image: PreTrainedModel, text: PreTrainedModel) -> Path:
    image.config.save_pretrained(folder / "image")
    text.config.save_pretrained(folder / "text")
    return folder


def saved(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("legacy", [False, True])
def test_an_fne_checkpoint_becomes_towers_with_the_same_outputs(tmp_path: Path, legacy: bool) -> None:
    image, text = vit(), bert()
    path = saved(tmp_path / "model_best.pth.tar", fne_checkpoint(image, text), legacy)
    checkpoint = read_checkpoint(path)
    assert recognise(checkpoint) == "fne"
    assert checkpoint.record == {"epoch": 8, "best_rsum": 531.25, "Eiters": 41250}
    found_image, found_text = fne_towers(checkpoint.weights, base_folder(tmp_path / "base", image, text))
    pixels, ids = torch.randn(3, 3, 8, 8), torch.tensor([[2, 5, 7, 3], [2, 9, 3, 0]])
    with torch.no_grad():
        for found, original in (
            (found_image(pixel_values=pixels), image(pixel_values=pixels)),
            (found_text(input_ids=ids, attention_mask=ids > 0), text(input_ids=ids, attention_mask=ids > 0)),
        ):
            assert torch.equal(found.last_hidden_state, original.last_hidden_state)
            assert torch.equal(found.pooler_output, original.pooler_output)


def test_a_number_that_numpy_1_saved_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "model_best.pth.tar", {"best_rsum": numpy.float32(500.5)}, legacy=True)
    content = path.read_bytes()
    assert b"cnumpy._core.multiarray\nscalar" in content
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
    assert read_checkpoint(path).record == {"best_rsum": 500.5}


def test_the_checkpoint_above_has_the_names_of_transformers_4_21() -> None:
    (state,) = fne_checkpoint(vit(), bert())["model"]
    image = {name.removeprefix("visual_encoder.") for name in state if name.startswith("visual_encoder.")}
    assert {name for name in image if name.startswith("encoder.layer.0.")} == NAMES_OF_A_LAYER
    assert "text_encoder.encoder.layer.1.attention.self.query.weight" in state


def test_half_precision_data_parallel_names_and_no_pooler(tmp_path: Path) -> None:
    image, text = vit(), bert()
    (state,) = fne_checkpoint(image, text)["model"]
    state = {f"module.{name}": value.half() for name, value in state.items() if "pooler" not in name}
    weights = read_checkpoint(saved(tmp_path / "best.pt", {"model": state})).weights
    found, _ = fne_towers(weights, base_folder(tmp_path, image, text))
    weight, original = (model.state_dict()["layers.1.mlp.fc2.weight"] for model in (found, image))
    assert weight.dtype == torch.float32
    assert torch.equal(weight, original.half().float())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("visual_encoder.layernorm.weight", None, r"visual_encoder\.\*.*layernorm\.weight is missing.*\(16,\)"),
        ("text_encoder.embeddings.LayerNorm.bias", None, r"text_encoder\.\*.*embeddings\.LayerNorm\.bias is missing"),
        ("text_encoder.vision.weight", torch.ones(2), r"vision\.weight is left over"),
        ("visual_encoder.layernorm.bias", torch.ones(3), r"layernorm\.bias has the shape \(3,\), expected \(16,\)"),
        ("visual_encoder.layernorm.bias", torch.full((16,), torch.nan), r"layernorm\.bias has numbers that are not"),
    ],
)
def test_a_tower_that_does_not_fit_the_base_or_is_not_finite_is_refused(
    tmp_path: Path, name: str, value: Tensor | None, said: str
) -> None:
    image, text = vit(), bert()
    (state,) = fne_checkpoint(image, text)["model"]
    state.pop(name, None)
    if value is not None:
        state[name] = value
    with pytest.raises(InputError, match=said):
        fne_towers(state, base_folder(tmp_path, image, text))


def test_a_base_for_other_pictures_is_refused_with_both_shapes(tmp_path: Path) -> None:
    folder = base_folder(tmp_path, vit(size=16), bert())
    (state,) = fne_checkpoint(vit(), bert())["model"]
    with pytest.raises(InputError, match=r"position_embeddings has the shape \(1, 5, 16\), expected \(1, 17, 16\)"):
        fne_towers(state, folder)
    with pytest.raises(InputError, match=r"config\.json: not found"):
        fne_towers(state, tmp_path / "nowhere")


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint's dict, found list"):
        read_checkpoint(saved(tmp_path / "best.pt", [1]))
    with zipfile.ZipFile(saved(tmp_path / "ViT-B-32.pt", {}), "a") as archive:
        archive.writestr("ViT-B-32/constants.pkl", b"")  # by which torch tells its programs from its checkpoints
    with pytest.raises(InputError, match="TorchScript archive"):
        read_checkpoint(tmp_path / "ViT-B-32.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"model": 3, "epoch": 1}, "model, epoch"),
        ({"state_dict": {"fc.weight": torch.ones(1)}, "name": "x" * 1000}, "fc.weight"),
    ],
)
def test_a_checkpoint_of_neither_is_refused(content: dict[str, Any], found: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "best.pt", content))
    assert len(json.dumps(dict(checkpoint.record))) < 250
    with pytest.raises(InputError, match=f"neither FNE's.*nor NPC's.*found {found}$"):
        recognise(checkpoint)
