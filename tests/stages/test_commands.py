"""What holds for every stage's command: a quick --help, and one line for what a user can mend."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.files import write_json, write_tensors
from pipeline.training.shards import write_shards
from tests.stages.running import (
    ROOT,
    STAGES,
    files_below,
    finite,
    invoke,
    refused,
    run,
    start,
    work_in,
    write_empty_store,
    write_tiny_params,
)

HEAVY = ("torch", "torchvision", "transformers", "accelerate", "pandas", "pyarrow", "mlflow", "sklearn", "matplotlib")
IMPORTED_BY_HELP = """
import runpy, sys
sys.argv = ["stages." + sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 0
print("imported:", *{name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        work_in(folder, monkeypatch)
        write_tiny_params(folder)
        run(*STAGES)
    return folder


@pytest.fixture
def ready(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(finished, tmp_path / "clone")
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.mark.parametrize("stage", [*STAGES, "show", "export", "recipe", "compare", "search", "ui", "sync"])
def test_help_imports_nothing_heavy(stage: str) -> None:
    command = [sys.executable, "-c", IMPORTED_BY_HELP, stage]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text, _, imported = said.partition("imported: ")
    assert text.startswith("Usage: ")
    assert set(HEAVY) & set(imported.split()) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelt_parameter_is_refused_with_the_nearest_name(stage: str, clone: Path) -> None:
    write_tiny_params(clone, sampler__cutdwon=0.1)
    said = refused(stage)
    assert said == (
        "error: params.yaml: sampler.cutdwon = 0.1: unknown key; the nearest valid name is sampler.cutdown\n"
    )


def test_a_mistake_ends_the_real_command_with_status_1_and_one_line(clone: Path) -> None:
    write_tiny_params(clone, train__epochs="many")
    process = start("train")
    said, error = process.communicate()
    assert process.returncode == 1
    assert said == ""
    assert error.startswith("error: params.yaml: train.epochs = 'many': ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_before_its_time_says_what_to_run(stage: str, clone: Path) -> None:
    write_tiny_params(clone, pairs__weighting="npc", pairs__bank_epochs=1, train__epochs=2)  # else bank needs nothing
    said = refused(stage)
    assert "not found; `dvc repro" in said
    earlier = ("data/raw", "data/split", "features", "models/base", "models/trained", "train")
    assert said.removeprefix("error: ").startswith(earlier), "an output of the stage that comes before"


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        *(("split", path) for path in ("data/raw/images.zip", "data/raw/source.json")),
        *(("base", path) for path in ("data/split/vocabulary.txt",)),
        *(("features", path) for path in ("data/raw/images.zip", "data/split/val.json", "models/base/base.json")),
        *(("train", path) for path in ("data/split", "features/features.json", "features/train", "models/base")),
        *(("evaluate", path) for path in ("data/split/test.json", "features/test", "models/trained/heads.safetensors")),
        *(("evaluate", path) for path in ("train/run.json", "models/trained/last")),
        *(
            ("audit", path)
            for path in ("data/raw/images.zip", "evaluation/embeddings.safetensors", "train/history.csv")
        ),
        *(("audit", path) for path in ("data/split/test.json", "metrics.json")),
        ("show", "metrics.json"),
    ],
)
def test_a_part_that_is_missing_is_named(stage: str, missing: str, ready: Path) -> None:
    path = ready / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = refused(stage)
    assert missing.removesuffix(".json") in said
    assert "dvc repro" in said


def test_folds_that_do_not_divide_the_test_images_are_refused_before_any_work(ready: Path) -> None:
    (ready / "metrics.json").unlink()
    write_tiny_params(ready, evaluate__folds=4)
    assert "evaluate.folds = 4: the test split's 6 images" in refused("evaluate")
    assert not (ready / "metrics.json").exists()
    write_tiny_params(ready, evaluate__folds=3, evaluate__bootstrap=0)
    run("evaluate")
    assert not (ready / "evaluation/intervals.json").exists(), "no resampling was asked for"


@pytest.mark.parametrize(("key", "value"), [("train", "heads"), ("image_size", 48)])
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_features_made_for_other_parameters_are_refused(
    stage: str, key: str, value: str | int, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_params(ready, **{f"model__{key}": value})
    said = refused(stage)
    assert f"params.yaml says {value}; run `dvc repro features`" in said


def test_features_of_another_split_are_refused(ready: Path) -> None:
    write_tiny_params(ready, data__scenes__train=11)
    run("download", "split")
    assert "holds 12 images and 60 captions, the split 11 and 55; run `dvc repro features`" in refused("train")


def test_heads_of_another_width_are_refused(ready: Path) -> None:
    write_tensors(ready / "models/trained/heads.safetensors", {"image.weight": torch.zeros(3, 3)})
    assert "heads.safetensors: does not fit the model that params.yaml describes" in refused("evaluate")


@pytest.mark.parametrize("stage", ["evaluate", "audit"])
@pytest.mark.parametrize(
    ("path", "value", "named"),
    [((), {}, "key"), (("best", "statistics"), {}, "best.statistics.positive"), (("sampler", "prior"), "x", "prior")],
)
def test_a_damaged_record_of_the_training_is_named(
    path: tuple[str, ...], value: object, named: str, stage: str, ready: Path
) -> None:
    record = json.loads((ready / "train/run.json").read_text())
    part = record
    for name in path[:-1]:
        part = part[name]
    if path:
        part[path[-1]] = value
    write_json(ready / "train/run.json", record if path else value)
    said = refused(stage)
    assert said.startswith("error: train/run.json: ")
    assert named in said
    assert "`dvc repro train`" in said


def test_towers_that_collapsed_are_judged_as_useless(ready: Path) -> None:
    for folder, side in itertools.product(("models/trained", "models/trained/last"), ("image", "text")):
        path = ready / folder / side / "model.safetensors"
        weights = load_file(path)
        write_tensors(path, {name: torch.ones_like(tensor) for name, tensor in weights.items()})
    run("evaluate")
    metrics = json.loads(Path("metrics.json").read_text())
    assert metrics["test"]["i2t"]["R1"] == metrics["test"]["t2i"]["R1"] == 0, "ties count against the model"
    assert finite(metrics)


def test_the_report_is_kept_in_the_evaluated_run(ready: Path) -> None:
    kept = {path.name for path in (ready / "mlartifacts").glob("*/artifacts/report/*")}
    made = {path.name for path in (ready / "report").iterdir()}
    assert kept == made == {"index.html", "false_negatives.csv", "noisy_pairs.csv"}


def test_without_the_run_in_the_store_the_report_is_made_all_the_same(ready: Path) -> None:
    shutil.rmtree(ready / "report")
    write_empty_store(ready)  # as after `dvc pull` in a fresh clone
    assert "report/index.html" in run("audit")
    assert (ready / "report/index.html").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk (EFBIG where a disk says ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


@pytest.mark.parametrize("size", [0, 3000])
@pytest.mark.parametrize("stage", STAGES)
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
    errors = [line for line in result.output.splitlines() if not line.startswith("warning: MLflow")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "no space left on the disk; what was there before is unchanged" in errors[0]
    assert files_below(ready) == before
    assert invoke(stage).exit_code == 0
    assert files_below(ready) == with_room(stage)


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
    module, worker = {"features": ("features", "write_shards"), "evaluate": ("judging", "judge")}[stage]
    work, done = getattr(importlib.import_module(f"pipeline.training.{module}"), worker), []

    def disturbed(*arguments: Any) -> Any:
        (ready / "params.yaml").write_text(params.replace("image_size: 32", "image_size: 64"))
        done.append(arguments)
        return work(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(f"pipeline.training.{module}.{worker}", disturbed)
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
        patched.setattr("pipeline.training.features.write_shards", killed)
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
