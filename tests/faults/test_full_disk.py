"""The disk fills in the middle of a training: a clear error, nothing earlier lost, and it goes on with more room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.files import sha256
from pipeline.training.checkpoint import Checkpoint
from tests.stages.running import ROOT, files_below, invoke, largest_file, run, run_in, write_tiny_params

SETTINGS: dict[str, Any] = {"model__train": "heads", "train__epochs": 3, "train__batch_size": 16}


@pytest.fixture
def clone(heads_clone: Path) -> Path:
    write_tiny_params(heads_clone, **SETTINGS)
    return heads_clone


@pytest.fixture(scope="module")
def expected(heads_ready: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a training makes that always had room."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(heads_ready, folder, dirs_exist_ok=True)
    return made_in(run_in(folder, "train", **SETTINGS))


def made_in(folder: Path) -> dict[str, str]:
    """Digests of a training's outputs."""
    return {name: digest for name, digest in files_below(folder).items() if name.startswith(("models", "train"))}


@pytest.mark.parametrize("full_at", [1, 2, 5])
def test_a_disk_that_fills_while_training_costs_no_checkpoint(
    full_at: int, clone: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`full_at`: which of a training's checkpoints, best weights included, finds no room."""
    save, saved, written = Checkpoint.save, 0, {}

    def filling(self: Checkpoint, state: dict[str, Any], name: str = "state") -> None:
        nonlocal saved
        saved += 1
        if saved < full_at:
            save(self, state, name)
            written[self.folder / f"{name}.pt"] = sha256(self.folder / f"{name}.pt")
            return
        with largest_file(0):
            save(self, state, name)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", filling)
        result = invoke("train")
    assert result.exit_code == 1
    (error,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "no space left on the disk; what was there before is unchanged" in error
    assert ".checkpoints/train-" in error
    assert {path: sha256(path) for path in clone.glob(".checkpoints/*/*") if path.is_file()} == written
    assert not (clone / "models/trained").exists()

    said = run("train")
    assert ("going on at epoch" in said) == any(path.name == "state.pt" for path in written)
    assert made_in(clone) == expected


def test_a_disk_too_full_for_the_record_alone_does_not_stop_a_training(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has no room: the metrics are in the stage's own outputs."""
    log_batch = MlflowClient.log_batch

    def no_room(*arguments: Any, **named: Any) -> None:
        with largest_file(0):
            log_batch(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", no_room)
    said = run("train")
    assert said.count(f"warning: MLflow's store sqlite:///{clone}/mlflow.db failed (") == 1
    assert (clone / "train/history.csv").stat().st_size > 0


@pytest.mark.end_to_end
def test_a_disk_that_is_really_full_is_one_line_and_loses_nothing(clone: Path) -> None:
    """A file system of 16 kB, which the stage alone sees, and which is gone after it."""
    Path(".checkpoints").mkdir(exist_ok=True)
    before = files_below(clone)
    mount = "mount -t tmpfs -o size=16k tmpfs .checkpoints"
    command = [*_seen_alone(), "sh", "-c", f"{mount} && exec {sys.executable} -m stages.train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (error,) = ended.stderr.splitlines()
    assert error.startswith("error: ")
    assert "no space left on the disk" in error
    assert files_below(clone) == before


def _seen_alone() -> list[str]:
    """What lets a command mount for itself: as root, or where Linux lets everybody be root among their own."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        mounted = [*command, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
        if subprocess.run(mounted, capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("needs the right to mount a small file system")
