"""What lets large towers see large batches: gradients averaged over batches, activations computed twice."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.features.inputs import Batch
from pipeline.models.small import small_image_backbone, small_text_backbone
from pipeline.models.towers import ImageTower, MatchingModel, TextTower, recompute_activations
from pipeline.training.accumulation import Window, window_of
from tests.features.making import prepared_inputs
from tests.training.making import (
    IMAGE_NW,
    IMAGE_OF_M,
    WORDS,
    WORDS_ML,
    frozen_pairs,
    linear_heads,
    params_with,
    tiny_training,
)


def test_a_window_holds_as_many_batches_as_asked_and_the_last_one_what_is_left() -> None:
    windows = [window_of(batch, 5, 2) for batch in range(5)]
    assert windows == [Window(0, 2), Window(1, 2), Window(0, 2), Window(1, 2), Window(0, 1)]
    assert [window.last for window in windows] == [False, True, False, True, True]


def test_memory_and_statistics_go_on_within_a_window_and_the_momentum_towers_do_not(tmp_path: Path) -> None:
    model, inputs = linear_heads(), frozen_pairs(tmp_path / "inputs")
    model.text_head.load_state_dict(model.image_head.state_dict())
    training = tiny_training(tmp_path, params_with(memory__size=20), model, inputs)
    assert training.memory is not None and training.momentum_model is not None
    batch = Batch(IMAGE_NW, IMAGE_NW, torch.arange(6), torch.arange(6), 0, 6)
    training.step(batch, warming_up=False)
    training.step(batch, warming_up=False, window=Window(0, 2))
    averaged, seen = copy.deepcopy(training.momentum_model.state_dict()), float(training.statistics.positive.count)
    training.step(batch, warming_up=False, window=Window(1, 2))
    assert all(torch.equal(value, averaged[name]) for name, value in training.momentum_model.state_dict().items())
    assert int(training.memory.filled.sum()) == 18
    assert training.statistics.positive.count > seen > 0


@pytest.mark.parametrize("weighting", ["none", "npc"])
def test_activations_computed_twice_train_the_same_weights(weighting: str, tmp_path: Path) -> None:
    """Of NPC's siamese step too, which takes its gradient apart."""
    pixels = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    inputs = prepared_inputs(tmp_path, pixels, WORDS_ML.tolist(), IMAGE_OF_M.tolist())
    settings = {"memory__size": 0, "train__epochs": 2, "train__batch_size": 6, "train__lr": 0.01}
    params = params_with(**settings, pairs__weighting=weighting, pairs__bank_epochs=1)
    weights = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        image = ImageTower(small_image_backbone(size=16, patch=8, width=8, layers=2, heads=2))
        text = TextTower(
            small_text_backbone(vocabulary_size=WORDS, width=8, layers=2, heads=2, positions=4), "masked_mean"
        )
        if checkpointed:
            recompute_activations(image, "image")
            recompute_activations(text, "text")
        passes: list[int] = []
        layer = image.get_submodule("backbone.layers.0.mlp.fc1")
        layer.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        model = MatchingModel(image, text, nn.Identity(), nn.Identity(), width=8)
        tiny_training(tmp_path, params, model, inputs).run()
        weights.append(model.state_dict() | {"passes": torch.tensor(sum(passes))})
    assert weights[1].pop("passes") > weights[0].pop("passes")
    torch.testing.assert_close(*weights)


def test_a_model_that_cannot_compute_activations_twice_is_named() -> None:
    tower = torch.nn.Module()
    tower.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"train\.gradient_checkpointing = True: Linear of model\.image does not"):
        recompute_activations(tower, "image")


def test_heads_have_no_activations_worth_computing_twice() -> None:
    with pytest.raises(InputError, match=r"train\.gradient_checkpointing true: model\.train heads trains no tower"):
        params_with(train__gradient_checkpointing=True, model__train="heads")
