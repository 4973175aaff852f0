"""24 steps of training agree with the published code, its quirks switched on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import BertModel, ViTModel

from pipeline.features.inputs import Batch, Inputs
from pipeline.models.towers import ImageTower, MatchingModel, TextTower, Tokens
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import Training
from tests.training.making import params_with

PUBLISHED = params_with(
    model__momentum=0.9,
    model__pooling="mean_all",
    memory__size=16,
    memory__prefill="random",
    sampler__strategy="fne",
    sampler__cutdown=0.2,
    sampler__alpha=0.5,
    sampler__prior=10_000,
    sampler__suspect=0.001,
    sampler__min_matches=1,
    sampler__statistics="running",
    sampler__known_positives="diagonal",
    loss__name="triplet",
    loss__margin=0.2,
    train__warmup="triplet",
    train__lr=0.001,
    train__clip=2.0,
)
GOLDEN = Path(__file__).parents[1] / "golden" / "run"
CAPTIONS_AN_IMAGE = 2
STATISTICS = ("pos_count", "pos_mean", "pos_var", "neg_count", "neg_mean", "neg_var")
NEVER_READ = cast(Any, SimpleNamespace())  # inputs and checkpoint: `step` touches neither


def published_training(figures: Any) -> Training:
    towers = (
        ImageTower(ViTModel.from_pretrained(GOLDEN / "vit")),
        TextTower(BertModel.from_pretrained(GOLDEN / "bert"), "mean_all"),
    )
    width = figures["image_queue"].shape[1]
    model = MatchingModel(*towers, nn.Identity(), nn.Identity(), width=width).train()
    inputs, checkpoint = cast(Inputs, NEVER_READ), cast(Checkpoint, NEVER_READ)
    training = Training(PUBLISHED, model, inputs, inputs, Accelerator(cpu=True), checkpoint)
    training.objective.draw = lambda weights_bC, uniform_b: weights_bC.argmax(dim=1)
    assert training.memory is not None
    training.memory.image.copy_(torch.from_numpy(figures["image_queue"]))
    training.memory.text.copy_(torch.from_numpy(figures["text_queue"]))
    return training


def published_batch(figures: Any, number: int) -> Batch:
    names = ("image_ids", "caption_index", "input_ids", "attention_mask")
    image_id, caption, *tokens = (torch.from_numpy(figures[f"batch{number:02d}/{name}"]) for name in names)
    pixels = torch.from_numpy(figures["pixel_values"])[image_id]
    return Batch(pixels, Tokens(*tokens), image_id, CAPTIONS_AN_IMAGE * image_id + caption, 0, len(image_id))


def test_loss_and_statistics_agree_at_every_step() -> None:
    with np.load(GOLDEN / "run.npz") as figures:
        columns = figures["trajectory_columns"].tolist()
        published = [dict(zip(columns, row, strict=True)) for row in figures["trajectory"].tolist()]
        training = published_training(figures)
        for number, expected in enumerate(published):
            if number and expected["epoch"] != published[number - 1]["epoch"]:
                training.statistics.reset()
            warming_up = expected["epoch"] == 0
            loss = training.step(published_batch(figures, number), warming_up=warming_up)["train/loss"]
            assert loss.item() == pytest.approx(expected["loss"], rel=1e-4), f"loss at step {number}"
            if warming_up:
                continue
            positive, negative = training.statistics.positive, training.statistics.negative
            found = [
                getattr(side, name).item() for side in (positive, negative) for name in ("count", "mean", "variance")
            ]
            for name, value in zip(STATISTICS, found, strict=True):
                if not np.isnan(expected[name]):  # published: 0/0 for one similarity; here 0
                    assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-7), f"{name} at step {number}"
