"""A training that was killed and started again is the one that was not: the same bits."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from pipeline.bank.table import write_bank
from pipeline.data.splits.truth_file import read_truth
from pipeline.features.inputs import Batch
from pipeline.files import sha256
from pipeline.params import load_params
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import Training
from pipeline.training.setup import open_training
from tests.stages.running import invoke, run, work_in, write_tiny_params

AN_EPOCH = 4  # steps
MINUTE = 60.0


class KilledError(Exception):
    """What stands for a kill."""


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def open_run(ready: Path, folder: Path, clock: Clock, told: list[Any] | None = None) -> Training:
    """A new process's view: nothing but the files."""

    def on_record(history: Sequence[Mapping[str, Any]]) -> None:
        if told is not None:
            told.append([dict(row) for row in history])

    parts = (ready / "features", ready / "data/split", ready / "models/base")
    truth = read_truth(ready / "data/split", "train")
    training, _ = open_training(
        load_params(folder / "params.yaml"), *parts, truth, Checkpoint(folder, clock), on_record, ready / "bank"
    )
    return training


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
    state = training.state_dict()
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


CASES: dict[str, dict[str, Any]] = {
    "towers": {},
    "heads": {"model__train": "heads"},
    "dropout": {},
    "workers": {"train__workers": 2, "train__augment": "fne"},
    "batch alone, infonce": {"memory__size": 0, "loss__name": "infonce", "sampler__strategy": "random"},
    "pair weights, cosine": {
        "pairs__weighting": "npc",
        "loss__name": "infonce",
        "loss__temperature": "learned",
        "train__optimiser": "adamw",
        "train__weight_decay": 0.1,
        "train__schedule": "cosine",
        "train__warmup_steps": 3,
        "pairs__bank_epochs": 1,
        "pairs__clean_threshold": 0.5,
    },
    "random prefill, running statistics": {
        "memory__prefill": "random",
        "sampler__statistics": "running",
        "train__validations_per_epoch": 2,
    },
}


@pytest.fixture
def with_dropout(towers_ready: Path, tmp_path: Path) -> Path:
    """The towers with a BERT that drops a tenth of its units."""
    folder = tmp_path / "dropout"
    shutil.copytree(towers_ready, folder)
    path = folder / "models/base/text/config.json"
    config = json.loads(path.read_text()) | {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture
def with_bank(towers_ready: Path, tmp_path: Path) -> Path:
    """A bank that names, for each of the sixty captions, those of the next two images."""
    folder = tmp_path / "banked"
    shutil.copytree(towers_ready, folder)
    rows = np.arange(60)
    table = {"caption": rows, "image": rows // 5, "loss": 1.0, "clean_probability": 1.0, "clean": True}
    entries = {"image_entry": (rows // 5 * 5 + 5) % 60, "text_entry": (rows + 10) % 60}
    write_bank(folder / "bank", pandas.DataFrame(table | entries))
    return folder


@pytest.mark.parametrize(
    ("minutes_a_step", "killed_at"),
    [(1.0, (1, 2, 7, 12)), (0.0, (3, 6))],
    ids=["a checkpoint each step", "a checkpoint each epoch"],
)
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again_it_ends_with_the_same_bits(
    case: str,
    minutes_a_step: float,
    killed_at: tuple[int, ...],
    towers_ready: Path,
    heads_ready: Path,
    with_dropout: Path,
    with_bank: Path,
    tmp_path: Path,
) -> None:
    ready = {"heads": heads_ready, "dropout": with_dropout, "pair weights, cosine": with_bank}.get(case, towers_ready)
    changes = {"train__epochs": 3, "train__batch_size": 16, "memory__size": 24, "sampler__min_matches": 4}
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
        write_tiny_params(folder, **(changes | CASES[case]))
    whole = open_run(ready, folders[0], Clock())
    run_until(whole, Clock(), None, 0.0)
    assert whole.at.step == 3 * AN_EPOCH

    lost_at = 0
    told: list[Any] = []
    for last_step in (*killed_at, None):
        clock = Clock()
        training = open_run(ready, folders[1], clock, told)
        saved = told[-1][-1]["step"] if told else 0
        if saved:
            torch.manual_seed(0)  # what a process drew before it resumed must not matter
        assert training.resume() == (saved > 0)
        assert training.at.step == saved >= lost_at // AN_EPOCH * AN_EPOCH
        lost_at = (last_step or 0) - 1
        run_until(training, clock, last_step, minutes_a_step)

    assert_same(everything(training), everything(whole))
    for earlier, later in itertools.pairwise(told):
        assert later[: len(earlier)] == earlier, "what was once told stays as it is, its time included"
    assert told[-1] == training.at.history


def test_dropout_draws_anew_at_every_step(with_dropout: Path, towers_ready: Path, tmp_path: Path) -> None:
    write_tiny_params(tmp_path, train__batch_size=16)
    losses = []
    for ready in (with_dropout, towers_ready):
        training = open_run(ready, tmp_path, Clock())
        training.run()
        losses.append([row["train/loss"] for row in training.at.history])
    assert losses[0] != losses[1], "otherwise the case `dropout` above proves nothing"


def test_a_checkpoint_that_is_cut_off_is_named(towers_ready: Path, tmp_path: Path) -> None:
    from pipeline.errors import InputError

    write_tiny_params(tmp_path)
    training = open_run(towers_ready, tmp_path, Clock())
    training.run()
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"state\.pt: not a readable checkpoint .* delete it to start over"):
        open_run(towers_ready, tmp_path, Clock()).resume()


def test_another_parameter_starts_afresh(towers_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(towers_ready, folder)
    work_in(folder, monkeypatch)
    step = Training.step

    def killed(self: Training, batch: Batch, **how: Any) -> Any:
        if self.at.epoch == 2:
            raise KilledError
        return step(self, batch, **how)

    settings = {"train__epochs": 3, "train__batch_size": 16}
    write_tiny_params(folder, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", killed)
        with pytest.raises(KilledError):
            run("train")
    for changes in ({"train__lr": 0.001}, {"sampler__cutdown": 0.3}):
        write_tiny_params(folder, **(settings | changes))
        assert "going on" not in run("train")
    write_tiny_params(folder, **settings, evaluate__batch_size=7)
    assert run("train").startswith("going on at epoch 3, step 8\n")
    assert not list(folder.glob(".checkpoints/*/*")), "a run that is complete leaves no state behind"


def test_killed_while_its_checkpoint_is_removed_it_ends_well_all_the_same(
    heads_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(heads_ready, tmp_path / "clone")
    work_in(tmp_path / "clone", monkeypatch)
    write_tiny_params(Path(), model__train="heads", train__epochs=2, train__batch_size=16)
    remove = shutil.rmtree

    def killed(folder: Path, **options: Any) -> None:
        if Path(folder).parent.name == ".checkpoints":
            (Path(folder) / "best.pt").unlink()
            raise KilledError
        remove(folder, **options)

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr("shutil.rmtree", killed)
        invoke("train")
    made = {path: sha256(path) for path in Path("models/trained").rglob("*") if path.is_file()}
    run("train")
    assert {path: sha256(path) for path in made} == made
    assert not [path for path in Path(".checkpoints").iterdir() if path.is_dir()]
