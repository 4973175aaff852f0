"""A training that was killed and started again is the one that was not: the same bits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.features.inputs import Batch
from pipeline.training.loop import Training
from tests.training.making import frozen_pairs, linear_heads, linear_towers, params_with, prepared_pairs, tiny_training

pytestmark = pytest.mark.whole
AN_EPOCH = 4  # steps
MINUTE = 60.0


class KilledError(Exception):
    """What stands for a kill."""


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def open_run(case: str, folder: Path, clock: Clock, seen: list[Any] | None = None, *, cpu: bool = True) -> Training:
    """A new process's view: nothing but the files, and what the seed gives."""

    def on_record(history: Sequence[Mapping[str, Any]]) -> None:
        if seen is not None:
            seen.append([dict(row) for row in history])

    kind, changes = CASES[case]
    params = params_with(**(COMMON | changes))
    torch.manual_seed(params.seed)
    model = linear_towers() if kind == "towers" else linear_heads(dropout=0.3 if kind == "dropout" else 0.0)
    augment = params.train.augment == "fne"
    inputs = prepared_pairs(folder, augment=augment) if kind == "towers" else frozen_pairs(folder)
    return tiny_training(folder, params, model, inputs, clock, on_record, cpu=cpu)


def run_until(training: Training, clock: Clock, last_step: int | None, minutes_a_step: float) -> None:
    """Train; in step number `last_step` the process dies, its optimiser step done and not yet recorded."""
    step: Callable[..., Any] = training.step

    def timed(batch: Batch, **how: Any) -> Any:
        clock.now += minutes_a_step * MINUTE
        result = step(batch, **how)
        if training.at.step + 1 == last_step:
            raise KilledError
        return result

    training.step = timed  # type: ignore[method-assign]
    if last_step is None:
        training.run()
    else:
        with pytest.raises(KilledError):
            training.run()


def everything(training: Training) -> dict[str, Any]:
    """All that the run leaves behind, without wall-clock time."""
    state = training.state.state_dict()
    state["progress"] = json.loads(state["progress"])
    state["progress"]["history"] = [
        {name: value for name, value in row.items() if name != "time"} for row in state["progress"]["history"]
    ]
    return state | {"best": training.checkpoint.load("best")}


def assert_same(found: Any, expected: Any, place: str = "") -> None:
    """Equal to the bit, in nested dicts and lists."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name, value in expected.items():
            assert_same(found[name], value, f"{place}/{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{place}/{index}")
    else:
        assert found == expected, place


COMMON = {"train__epochs": 3, "train__batch_size": 3, "memory__size": 7, "sampler__min_matches": 4, "train__lr": 0.01}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "towers": ("towers", {}),
    "heads": ("heads", {}),
    "dropout": ("dropout", {}),
    "averaged weights": ("dropout", {"train__ema": 0.8, "train__accumulate": 2}),
    "workers": ("towers", {"train__workers": 2, "train__augment": "fne"}),
    "batch alone, infonce": ("towers", {"memory__size": 0, "loss__name": "infonce", "sampler__strategy": "random"}),
    "pair weights, cosine": (
        "towers",
        {
            "pairs__weighting": "npc",
            "pairs__bank_epochs": 1,
            "loss__name": "infonce",
            "train__optimiser": "adamw",
            "train__weight_decay": 0.1,
            "train__schedule": "cosine",
            "train__warmup_steps": 3,
        },
    ),
    "pair weights that are learned": ("heads", {"pairs__weighting": "crcl", "memory__size": 0}),
    "pair weights by the epoch before": ("heads", {"pairs__weighting": "ncr"}),
    "thresholds of every anchor": (
        "heads",
        {"sampler__strategy": "glofnd", "sampler__false_share": 0.2, "loss__name": "infonce"},
    ),
    "random prefill, running statistics": (
        "heads",
        {"memory__prefill": "random", "sampler__statistics": "running", "train__validations_per_epoch": 2},
    ),
}


@pytest.mark.parametrize(
    ("minutes_a_step", "killed_at"),
    [(1.0, (1, 2, 7, 12)), (0.0, (3, 6))],
    ids=["a checkpoint each step", "a checkpoint each epoch"],
)
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again_it_ends_with_the_same_bits(
    case: str, minutes_a_step: float, killed_at: tuple[int, ...], tmp_path: Path
) -> None:
    whole = open_run(case, tmp_path / "whole", Clock())
    run_until(whole, Clock(), None, 0.0)
    assert whole.at.step == 3 * AN_EPOCH

    lost_at = 0
    seen: list[Any] = []
    for last_step in (*killed_at, None):
        clock = Clock()
        training = open_run(case, tmp_path / "killed", clock, seen)
        saved = seen[-1][-1]["step"] if seen else 0
        if saved:
            torch.manual_seed(0)  # what a process drew before it resumed must not matter
        assert training.resume() == (saved > 0)
        assert training.at.step == saved >= lost_at // AN_EPOCH * AN_EPOCH
        lost_at = (last_step or 0) - 1
        run_until(training, clock, last_step, minutes_a_step)

    assert_same(everything(training), everything(whole))
    for earlier, later in itertools.pairwise(seen):
        assert later[: len(earlier)] == earlier, "what was once recorded stays as it is, its time included"
    assert seen[-1] == training.at.history


def test_dropout_draws_anew_at_every_step(tmp_path: Path) -> None:
    losses = []
    for case in ("heads", "dropout"):
        training = open_run(case, tmp_path / case, Clock())
        training.run()
        losses.append([row["train/loss"] for row in training.at.history])
    assert losses[0] != losses[1], "otherwise the case `dropout` above proves nothing"
