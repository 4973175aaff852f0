"""What benchmarks measure with can still be run: params.yaml's defaults change."""

from __future__ import annotations

import torch

from benchmarks import commands
from benchmarks.losses import LossStep, Products
from benchmarks.measuring import published, ratio
from benchmarks.towers import training_of
from pipeline.features.inputs import Batch
from pipeline.models.towers import Tokens
from tests.stages.running import STAGES
from tests.training.making import PIXELS_N3HW, WORDS_ML, small_towers


def test_the_help_of_every_stage_is_measured() -> None:
    assert commands.STAGES == STAGES


def test_the_published_loss_runs_beside_its_products() -> None:
    step = LossStep(64, torch.device("cpu"))
    value, remark = ratio(step.run, Products(step).run, 2)
    assert value > 0 and "2 rounds" in remark
    step.enqueue()


def test_a_step_of_a_training_for_its_steps_alone_needs_no_evidence() -> None:
    training = training_of(published(), small_towers("vit_bert"), "no")
    training.prepared.train()
    place_B = torch.arange(6)
    tokens = Tokens(WORDS_ML[:6], torch.ones_like(WORDS_ML[:6]))
    before = training.model.image_tower.state_dict()["backbone.embeddings.cls_token"].clone()
    training.step(Batch(PIXELS_N3HW, tokens, place_B, place_B, 0, 6), warming_up=False)
    assert not torch.equal(training.model.image_tower.state_dict()["backbone.embeddings.cls_token"], before)
