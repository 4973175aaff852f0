"""Every strategy with either loss, with and without a memory and pair weights, trains."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch

from tests.training.making import (
    LOSSES,
    STRATEGIES,
    frozen_pairs,
    linear_heads,
    linear_towers,
    params_with,
    prepared_pairs,
    tiny_training,
)

MEMORIES = (0, 7)
WEIGHTINGS = ("none", "npc")


@pytest.mark.parametrize(
    ("strategy", "loss", "memory", "weighting"), [*itertools.product(STRATEGIES, LOSSES, MEMORIES, WEIGHTINGS)]
)
def test_losses_are_finite_and_both_sides_learn(
    strategy: str, loss: str, memory: int, weighting: str, tmp_path: Path
) -> None:
    chosen = {"sampler__strategy": strategy, "loss__name": loss, "memory__size": memory, "pairs__weighting": weighting}
    settings = {"sampler__min_matches": 0, "train__epochs": 2, "train__batch_size": 6, "pairs__bank_epochs": 1}
    model = linear_towers()
    start = copy.deepcopy(model.state_dict())
    training = tiny_training(tmp_path, params_with(**settings, **chosen), model, prepared_pairs(tmp_path / "inputs"))
    at = training.run()
    assert len(at.history) == at.step == 4
    assert all(0 <= row["train/loss"] < torch.inf for row in at.history)
    changed = {name.split("_")[0] for name, value in model.state_dict().items() if not torch.equal(start[name], value)}
    assert {"image", "text"} <= changed
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert (training.memory is None) == (memory == 0)
    assert training.memory is None or bool(training.memory.filled.all())
    weighted = [row for row in at.history if "pairs/weight_mean" in row]
    assert [row["epoch"] for row in weighted] == ([] if weighting == "none" else [1, 1])  # the first one warms up
    assert all(0 < row["pairs/weight_mean"] <= 1 and row["pairs/bank_loss"] > 0 for row in weighted)


@pytest.mark.parametrize("warmup", LOSSES)
def test_warming_up_stays_in_the_batch_and_fills_the_memory(warmup: str, tmp_path: Path) -> None:
    params = params_with(train__warmup=warmup, train__epochs=1, train__batch_size=5, memory__size=7)
    training = tiny_training(tmp_path, params, linear_heads(), frozen_pairs(tmp_path / "inputs"))
    at = training.run()
    assert training.memory is not None
    assert bool(training.memory.filled.all())
    assert all(row["sampler/cut_down_share"] == 0 for row in at.history)
