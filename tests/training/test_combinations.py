"""Strategies, losses, memories and families of towers train together: every two settings meet, not every four."""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.data.splits.truth_file import read_truth
from pipeline.features.inputs import epoch_plan, training_batches
from pipeline.params import load_params
from pipeline.runtime.processes import local_span
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import Training
from pipeline.training.setup import open_training
from tests.stages.running import STAGES, run, run_in, work_in, write_tiny_params

FAMILIES = ("vit_bert", "clip")
STRATEGIES = ("fne", "hardest", "semi_hard", "random", "all")
LOSSES = ("triplet", "infonce")
MEMORIES = (0, 64)
ROWS = [
    (FAMILIES[(column + row // 4) % 2], strategy, loss, MEMORIES[(row + column) % 2])
    for row, strategy in enumerate(STRATEGIES)
    for column, loss in enumerate(LOSSES)
]


def open_tiny_training(ready: Path, folder: Path, **changes: object) -> Training:
    write_tiny_params(folder, **({"train__batch_size": 16, "train__lr": 0.01} | changes))
    parts = (ready / "features", ready / "data/split", ready / "models/base")
    truth = read_truth(ready / "data/split", "train")
    training, _ = open_training(
        load_params(folder / "params.yaml"), *parts, truth, Checkpoint(folder), lambda history: None, ready / "bank"
    )
    return training


def test_every_two_settings_meet() -> None:
    every = (FAMILIES, STRATEGIES, LOSSES, MEMORIES)
    met = {two for row in ROWS for two in itertools.combinations(enumerate(row), 2)}
    for (first, one), (second, other) in itertools.combinations(enumerate(every), 2):
        assert {((first, a), (second, b)) for a in one for b in other} <= met


@pytest.mark.parametrize(("strategy", "loss", "memory"), [row[1:] for row in ROWS])
def test_a_step_has_a_finite_loss_and_changes_the_weights(
    strategy: str, loss: str, memory: int, towers_ready: Path, tmp_path: Path
) -> None:
    chosen = {"sampler__strategy": strategy, "loss__name": loss, "memory__size": memory, "sampler__min_matches": 0}
    training = open_tiny_training(towers_ready, tmp_path, **chosen)
    training.prepared.train()
    plan = epoch_plan(60, 16, seed=1, epoch=0)
    spans = [local_span(len(batch)) for batch in plan]
    for batch in training_batches(training.train_inputs, plan, spans, seeds=(1, 0), start=0, workers=0):
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        logged = training.step(batch, warming_up=False)
        cut_down = logged["sampler/cut_down_share"]
        training.at.step += 1
        assert 0 < logged["train/loss"] < torch.inf
        changed = {name for name, value in training.model.state_dict().items() if not torch.equal(before[name], value)}
        assert {"image", "text"} == {name.split("_")[0] for name in changed}
        assert all(value.isfinite().all() for value in training.model.state_dict().values())
        assert 0 <= logged["sampler/false_negative_share"] <= 1
        assert (0 < cut_down < 1) if strategy == "fne" and training.at.step > 1 else cut_down >= 0
    assert (training.memory is None) == (memory == 0)
    if training.memory is not None:
        assert int(training.memory.filled.sum()) == 60


@pytest.mark.parametrize("warmup", ["triplet", "infonce"])
def test_warming_up_stays_in_the_batch_and_fills_the_memory(warmup: str, towers_ready: Path, tmp_path: Path) -> None:
    training = open_tiny_training(towers_ready, tmp_path, train__warmup=warmup, memory__size=40)
    at = training.run()
    assert at.step == 4
    assert training.memory is not None
    assert bool(training.memory.filled.all())
    assert all("sampler/cut_down_share" not in row or row["sampler/cut_down_share"] == 0 for row in at.history)


Banked = Callable[[str], tuple[Path, dict[str, object]]]


@pytest.fixture(scope="module")
def banked(tmp_path_factory: pytest.TempPathFactory) -> Banked:
    """Noisy scenes with small towers of a family and a bank: where they are ready, and their parameters; made once."""

    @functools.cache
    def made(family: str) -> tuple[Path, dict[str, object]]:
        changes: dict[str, object] = {
            "model__family": family,
            "pairs__weighting": "npc",
            "pairs__bank_epochs": 2,
            "pairs__batch_size": 16,
            "pairs__clean_threshold": 0.5,
            "data__noise__ratio": 0.4,
            "loss__temperature": "learned",
            "train__epochs": 2,  # the first warms up
        }
        return run_in(tmp_path_factory.mktemp(family), *STAGES[:5], **changes), changes

    return made


@pytest.mark.parametrize(("family", "strategy", "loss", "memory"), ROWS)
def test_pair_weights_go_with_every_strategy_loss_and_memory(
    family: str, strategy: str, loss: str, memory: int, banked: Banked, tmp_path: Path
) -> None:
    ready, changes = banked(family)
    chosen = {"sampler__strategy": strategy, "loss__name": loss, "memory__size": memory, "sampler__min_matches": 0}
    training = open_tiny_training(ready, tmp_path, **(changes | chosen))
    assert training.impact is not None
    at = training.run()
    weighted = [row for row in at.history if "pairs/weight_mean" in row]
    assert {row["epoch"] for row in weighted} == {1}
    assert all(0 < row["pairs/weight_mean"] <= 1 and row["pairs/bank_loss"] > 0 for row in weighted)
    assert bool(training.impact.weight_M.isfinite().all())
    assert 0 <= at.history[-1]["pairs/weight_auc"] <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_pair_weights_over_frozen_features(
    family: str, banked: Banked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, changes = banked(family)
    shutil.copytree(ready, tmp_path / "heads")
    work_in(tmp_path / "heads", monkeypatch)
    write_tiny_params(tmp_path / "heads", **changes, model__train="heads")
    run("features", "bank", "train", "evaluate")
