"""Stage `train` killed and started again: the same files, and nothing of another run."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.features.inputs import Batch
from pipeline.files import sha256
from pipeline.training.loop import Training
from tests.stages.running import invoke, run, start, work_in, write_tiny_params


class KilledError(Exception):
    """What stands for a kill."""


def outputs(folder: Path) -> dict[str, str]:
    paths = [*(folder / "models/trained").rglob("*"), *(folder / "train").rglob("*")]
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(paths) if path.is_file()}


def test_a_killed_command_goes_on_and_writes_the_same_files(
    towers_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed"):
        shutil.copytree(towers_ready, tmp_path / name)
        write_tiny_params(tmp_path / name, train__epochs=20, train__batch_size=16, memory__size=24)
    work_in(tmp_path / "whole", monkeypatch)
    assert "going on" not in run("train")

    killed = work_in(tmp_path / "killed", monkeypatch)
    process = start("train")
    give_up = time.monotonic() + 120
    while not list(killed.glob(".checkpoints/train-*/state.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "train/run.json").exists(), "it was to be killed in the middle"
    said = run("train")
    assert said.startswith("going on at epoch ")
    assert outputs(killed) == outputs(tmp_path / "whole")

    client = MlflowClient(tracking_uri=f"sqlite:///{killed / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'fne'")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    written = (killed / "train/history.csv").read_text().splitlines()
    losses = client.get_metric_history(tracked.info.run_id, "train/loss")
    assert [metric.step for metric in sorted(losses, key=lambda metric: metric.step)] == [
        int(line.split(",")[1]) for line in written[1:]
    ]


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
