"""Which parameters are trained: frozen layers, low-rank updates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.dual import is_dual_encoder
from pipeline.models.pretrained import fetch_clip
from pipeline.models.small import small_text_backbone
from pipeline.models.towers import MatchingModel, TextTower, Tokens
from pipeline.models.trainable import add_lora, freeze, merged
from pipeline.params import LoraParams
from tests.models.test_dual import published

TOKENS = Tokens(torch.tensor([[2, 4, 5, 3]]), torch.ones(1, 4, dtype=torch.long))
LORA = LoraParams(rank=2, alpha=4, dropout=0.0, targets=[])


def bert(layers: int = 3) -> TextTower:
    torch.manual_seed(1)
    return TextTower(
        small_text_backbone(vocabulary_size=9, width=16, layers=layers, heads=2, positions=8), "masked_mean"
    )


def trained(tower: nn.Module) -> set[str]:
    return {name for name, parameter in tower.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("frozen", "below"), [("none", ()), (0, ()), (2, ("embeddings", "layer.0.", "layer.1."))])
def test_the_first_layers_are_frozen_with_what_is_below(frozen: int, below: tuple[str, ...]) -> None:
    tower = bert()
    freeze(tower, frozen, "train.freeze.text")
    names = [name for name, _ in tower.named_parameters()]
    assert trained(tower) == {name for name in names if not any(part in name for part in below)}


def test_a_whole_tower_is_frozen_and_more_layers_than_it_has_are_refused() -> None:
    tower = bert()
    freeze(tower, "all", "train.freeze.text")
    assert trained(tower) == set()
    with pytest.raises(InputError, match=r"train\.freeze\.text = 4: the tower has 3 layers"):
        freeze(bert(), 4, "train.freeze.text")


def test_frozen_parts_stay_in_evaluation_mode_in_training() -> None:
    model = MatchingModel(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), bert(), nn.Linear(2, 2), nn.Identity(), width=2
    )
    freeze(model.image_tower, "all", "train.freeze.image")
    model.train()
    assert [model.image_tower.training, model.image_head.training, model.text_tower.training] == [False, True, True]


@pytest.mark.parametrize("kind", ["bert", "SiglipModel", "AlignModel"])
def test_low_rank_updates_alone_are_trained_and_merge_into_a_plain_model(kind: str, tmp_path: Path) -> None:
    if kind == "bert":
        tower: nn.Module = bert()
        example: object = TOKENS
    else:
        published(kind, tmp_path)
        tower, example = image_tower(fetch_clip(str(tmp_path), revision=None).image), torch.randn(1, 3, 32, 32)
        if kind == "AlignModel":
            tower, example = text_tower(fetch_clip(str(tmp_path), revision=None).text, "masked_mean"), TOKENS
    tower.eval()
    plain = {name for name, _ in tower.named_parameters()}
    before = tower(example)
    add_lora(tower, LORA, "model.image")
    torch.testing.assert_close(tower(example), before)
    assert trained(tower) and all("lora_" in name for name in trained(tower))
    tower(example).square().sum().backward()
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    after, backbone = tower(example), merged(tower.backbone)
    assert not torch.allclose(after, before, atol=1e-3)
    assert {f"backbone.{name}" for name, _ in backbone.named_parameters()} == plain
    tower.backbone = backbone
    torch.testing.assert_close(tower(example), after, rtol=1e-4, atol=1e-5)
    assert is_dual_encoder(backbone) == (kind != "bert")


def test_targets_are_names_of_linear_layers() -> None:
    tower = bert(1)
    add_lora(tower, LORA.model_copy(update={"targets": ["query"]}), "model.text")
    assert trained(tower) and all(".query." in name for name in trained(tower))
    with pytest.raises(
        InputError, match=r"model\.lora\.targets = \['q'\]: no linear layer of model\.text .*, of dense"
    ):
        add_lora(bert(1), LORA.model_copy(update={"targets": ["q"]}), "model.text")
