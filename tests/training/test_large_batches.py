"""What lets large towers see large batches: gradients averaged over batches, activations computed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.features.inputs import Batch, epoch_plan, training_batches
from pipeline.models.towers import recompute_activations
from pipeline.params import load_params, parse_params
from pipeline.training.accumulation import Window, window_of
from pipeline.training.loop import Training
from tests.training.test_combinations import open_tiny_training

IN_BATCH = {"memory__size": 0, "sampler__strategy": "hardest", "train__epochs": 1, "train__warmup_epochs": 0}


def first_batch(training: Training) -> Batch:
    plan = epoch_plan(len(training.train_inputs.caption_image), 16, seed=1, epoch=0)
    spans = [range(len(batch)) for batch in plan]
    return next(training_batches(training.train_inputs, plan, spans, seeds=(1, 0), start=0, workers=0))


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in training.model.state_dict().items()}


def test_a_window_holds_as_many_batches_as_asked_and_the_last_one_what_is_left() -> None:
    windows = [window_of(batch, 5, 2) for batch in range(5)]
    assert windows == [Window(0, 2), Window(1, 2), Window(0, 2), Window(1, 2), Window(0, 1)]
    assert [window.last for window in windows] == [False, True, False, True, True]


def test_a_batch_seen_twice_in_a_window_counts_as_the_batch_alone(towers_ready: Path, tmp_path: Path) -> None:
    alone, twice = (open_tiny_training(towers_ready, tmp_path, **IN_BATCH) for _ in range(2))
    batch = first_batch(alone)
    alone.step(batch, warming_up=False)
    before = weights(twice)
    twice.step(batch, warming_up=False, window=Window(0, 2))
    assert all(torch.equal(value, before[name]) for name, value in weights(twice).items())
    twice.step(batch, warming_up=False, window=Window(1, 2))
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(twice)[name], value)


def test_memory_and_statistics_go_on_within_a_window_and_the_momentum_towers_do_not(
    towers_ready: Path, tmp_path: Path
) -> None:
    training = open_tiny_training(towers_ready, tmp_path, memory__size=40, train__warmup_epochs=0)
    assert training.memory is not None and training.momentum_model is not None
    batch = first_batch(training)
    training.step(batch, warming_up=False)
    training.step(batch, warming_up=False, window=Window(0, 2))
    averaged = {name: value.clone() for name, value in training.momentum_model.state_dict().items()}
    training.step(batch, warming_up=False, window=Window(1, 2))
    assert all(torch.equal(value, averaged[name]) for name, value in training.momentum_model.state_dict().items())
    assert int(training.memory.filled.sum()) == 40


def test_activations_computed_twice_train_the_same_weights(towers_ready: Path, tmp_path: Path) -> None:
    answers = []
    for checkpointed in (False, True):
        training = open_tiny_training(towers_ready, tmp_path, **IN_BATCH, train__gradient_checkpointing=checkpointed)
        training.prepared.train()
        passes: list[int] = []
        layer = training.model.get_submodule("image_tower.backbone.layers.0.mlp.fc1")
        layer.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        training.step(first_batch(training), warming_up=False)
        assert len(passes) == (2 if checkpointed else 1)
        answers.append(weights(training))
    for name, value in answers[0].items():
        torch.testing.assert_close(answers[1][name], value)


def test_npc_takes_its_siamese_step_through_activations_computed_twice(towers_ready: Path, tmp_path: Path) -> None:
    from contextlib import nullcontext

    import numpy as np

    from pipeline.bank.table import Bank
    from pipeline.features.inputs import Entries
    from pipeline.training.impact import NegativeImpact

    answers = []
    for checkpointed in (False, True):
        training = open_tiny_training(towers_ready, tmp_path, **IN_BATCH, train__gradient_checkpointing=checkpointed)
        batch = first_batch(training)
        pairs = len(training.train_inputs.caption_image)
        bank = Bank(np.arange(pairs), np.arange(pairs), np.ones(pairs))
        training.impact = NegativeImpact(training.model, training.params, bank, None, nullcontext, {})
        twice = torch.cat([batch.image_id, batch.image_id])
        texts = training.train_inputs.texts(batch.caption_id.tolist() * 2, training=True)
        entries = Entries(training.train_inputs.images(twice.tolist()), texts, twice)
        training.prepared.train()
        training.step(batch._replace(entries=entries), warming_up=False)
        answers.append(weights(training) | {"given": training.impact.ratio_M.nan_to_num()})
    for name, value in answers[0].items():
        torch.testing.assert_close(answers[1][name], value)


def test_a_model_that_cannot_compute_activations_twice_is_named() -> None:
    tower = torch.nn.Module()
    tower.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"train\.gradient_checkpointing = True: Linear of model\.image does not"):
        recompute_activations(tower, "image")


def test_heads_have_no_activations_worth_computing_twice() -> None:
    content = load_params(Path(__file__).parents[2] / "params.yaml").model_dump()
    content["train"]["gradient_checkpointing"], content["model"]["train"] = True, "heads"
    with pytest.raises(InputError, match=r"train\.gradient_checkpointing true: model\.train heads trains no tower"):
        parse_params(content)
