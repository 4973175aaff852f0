"""A configuration that cannot be that of its weights is refused before memory is set aside for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ResNetConfig

from pipeline.errors import InputError
from pipeline.files import write_tensors
from pipeline.models import sizes
from pipeline.models.pretrained import fetch
from pipeline.models.sizes import check_model
from tests.faults.guard import bounded
from tests.models.test_pretrained import write_towers


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    write_towers(folder)
    return folder


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        ("bert", "num_hidden_layers", 10**6),
        ("bert", "vocab_size", 10**8),
        ("bert", "max_position_embeddings", 10**8),
        ("bert", "hidden_size", 10**6),
        ("vit", "num_hidden_layers", 10**6),
        ("vit", "intermediate_size", 10**8),
        ("vit", "image_size", 10**6),
    ],
)
def test_more_than_the_weights_hold_is_refused(towers: Path, tmp_path: Path, tower: str, key: str, value: int) -> None:
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    path = tmp_path / tower / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"config\.json: {key} = "), bounded():
        fetch(str(tmp_path / "vit"), str(tmp_path / "bert"), image_revision=None, text_revision=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 600, "image_size": 600, "hidden_size": 768},
        {"num_hidden_layers": 40, "intermediate_size": 10**6},
        {"num_hidden_layers": 200, "intermediate_size": 10**5},
        {"num_channels": 4096, "patch_size": 256, "image_size": 256},
    ],
)
def test_numbers_whose_product_is_more_than_the_weights_hold_are_refused(
    towers: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "vit/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"config\.json: a model of at least \d+ numbers"), bounded():
        fetch(str(tmp_path / "vit"), str(tmp_path / "bert"), image_revision=None, text_revision=None)


def test_a_depth_under_another_name_is_counted_in_modules(towers: Path, tmp_path: Path) -> None:
    """A list of stages: each depth is small, their number is not."""
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    stages = 2000
    config = ResNetConfig(embedding_size=1, hidden_sizes=[1] * stages, depths=[1] * stages, layer_type="basic")
    (tmp_path / "vit/config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"config\.json: a model of more than \d+ modules"), bounded():
        fetch(str(tmp_path / "vit"), str(tmp_path / "bert"), image_revision=None, text_revision=None)


def test_numbers_that_are_shared_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALL_NUMBERS", 10)
    weights = tmp_path / "model.safetensors"
    write_tensors(weights, {"table": torch.zeros(40, 2)})

    def model(*, shared: bool) -> nn.Module:
        first, second = nn.Embedding(40, 2), nn.Embedding(40, 2)
        if shared:
            second.weight = first.weight
        return nn.Sequential(first, second)

    check_model(lambda: model(shared=True), weights)
    with pytest.raises(ValueError, match="at least 160 numbers"):
        check_model(lambda: model(shared=False), weights)


def test_the_right_ones_are_read(towers: Path) -> None:
    fetch(str(towers / "vit"), str(towers / "bert"), image_revision=None, text_revision=None)
