"""What comes between: a full disk, a parameter that changes, another experiment, half-made features."""

from __future__ import annotations

import functools
import importlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.features.shards import write_shards
from tests.stages.running import (
    ROOT,
    STAGES,
    files_below,
    invoke,
    largest_file,
    run,
    start,
    work_in,
    write_tiny_params,
)

OF_ITS_OWN = {"seed": 4}  # a training for which nothing is there to go on from


@pytest.fixture(scope="module")
def with_room(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Digests of all files after a stage that had room; each stage is run once."""

    @functools.cache
    def files(stage: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("room") / "clone"
        shutil.copytree(finished, folder)
        with pytest.MonkeyPatch.context() as monkeypatch:
            work_in(folder, monkeypatch)
            write_tiny_params(folder, **OF_ITS_OWN)
            run(stage)
        return files_below(folder)

    return files


@pytest.mark.parametrize(("stage", "size"), [*((stage, 0) for stage in STAGES), ("download", 3000), ("train", 3000)])
def test_a_full_disk_is_one_line_and_loses_nothing(
    stage: str, size: int, ready: Path, with_room: Callable[[str], dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    before = files_below(ready)
    write_tiny_params(ready, **OF_ITS_OWN)
    before["params.yaml"] = files_below(ready)["params.yaml"]
    with capfd.disabled(), largest_file(size):
        result = invoke(stage)
    if result.exit_code == 0:
        assert size, "all that this stage writes is smaller than that"
        return
    errors = [line for line in result.output.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "no space left on the disk; what was there before is unchanged" in errors[0]
    assert files_below(ready) == before
    assert invoke(stage).exit_code == 0
    assert files_below(ready) == with_room(stage)


@pytest.mark.end_to_end
def test_two_experiments_that_need_the_same_features_both_get_all_of_them(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as two workers of DVC's queue: a copy of the repository each, and one main repository
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    other = tmp_path / "other"
    shutil.copytree(ready, other)
    processes = []
    for folder in (ready, other):
        monkeypatch.chdir(folder)
        shutil.rmtree(folder / "features")
        processes.append(start("features"))
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    found, expected = (files_below(folder / "features") for folder in (ready, other))
    assert found == expected
    assert {"train/images-00000.safetensors", "test/captions-00000.safetensors", "features.json"} <= set(found)


@pytest.mark.parametrize("stage", ["features", "evaluate"])
def test_a_parameter_that_changes_meanwhile_costs_the_stage_no_work_and_no_run(
    stage: str, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DVC starts it; with the old value back the same command ends as if nothing had happened."""
    run("train")
    before = statuses()
    shutil.copy(ROOT / "dvc.yaml", ready)
    monkeypatch.setenv("DVC_STAGE", stage)
    monkeypatch.setattr("stages.command.DIE_WITH_PARENT", ())
    params = (ready / "params.yaml").read_text()
    module, worker = {"features": ("features.make", "write_shards"), "evaluate": ("evaluation.judgment", "judge")}[
        stage
    ]
    work, done = getattr(importlib.import_module(f"pipeline.{module}"), worker), []

    def disturbed(*arguments: Any) -> Any:
        (ready / "params.yaml").write_text(params.replace("image_size: 32", "image_size: 64"))
        done.append(arguments)
        return work(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(f"pipeline.{module}.{worker}", disturbed)
        said = invoke(stage).output
    assert f"params.yaml: model.image_size was 32 when stage {stage} began and is 64 now" in said
    assert done
    assert statuses() == before
    made = {path.name: path.stat().st_ino for path in ready.glob(".checkpoints/features-*/train/*")}
    (ready / "params.yaml").write_text(params)
    run(stage)
    if stage == "features":
        assert made
        assert made.items() <= {path.name: path.stat().st_ino for path in (ready / "features/train").iterdir()}.items()
    assert set(statuses()) == {"FINISHED"}
    assert len(statuses()) == len(before)


def statuses() -> list[str]:
    """Of the runs in this folder's store."""
    with closing(sqlite3.connect("mlflow.db")) as store:
        return [status for (status,) in store.execute("select status from runs")]


def test_half_made_features_of_other_pictures_are_not_gone_on_from(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same names and captions, drawn larger: `data.scenes.size` is in no file but the pictures themselves."""
    written: list[str] = []

    def killed(folder: Path, kind: str, *arguments: Any) -> None:
        if kind == "captions":
            raise RuntimeError
        write_shards(folder, kind, *arguments)
        written.append(kind)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr("pipeline.features.make.write_shards", killed)
        invoke("features")
    assert written == ["images"]
    write_tiny_params(ready, data__scenes__size=48)
    whole = tmp_path / "whole"
    shutil.copytree(ready, whole, ignore=shutil.ignore_patterns(".checkpoints"))
    found = []
    for folder in (ready, whole):
        monkeypatch.chdir(folder)
        run("download", "split", "features")
        found.append(files_below(folder / "features"))
    assert found[0] == found[1]
    assert not list(ready.glob(".checkpoints/features-*/features.json"))
