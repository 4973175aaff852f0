"""Stage `train` stopped and started again; `tests/faults/test_kills.py` has it killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.features.inputs import Batch
from pipeline.files import sha256
from pipeline.training.loop import Training
from tests.stages.running import invoke, run, work_in, write_tiny_params


class KilledError(Exception):
    """What stands for a kill."""


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
