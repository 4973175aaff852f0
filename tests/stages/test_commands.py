"""What holds for every stage's command: a quick --help, and one line for what a user can mend."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from pipeline.files import write_json, write_tensors
from tests.stages.running import (
    EARLIER,
    ROOT,
    STAGES,
    files_below,
    finite,
    module_of,
    refused,
    run,
    start,
    succeed,
    write_empty_store,
    write_tiny_params,
)

HEAVY = ("torch", "torchvision", "transformers", "accelerate", "pandas", "pyarrow", "mlflow", "sklearn", "matplotlib")
IMPORTED_BY_HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 0
print("imported:", *{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize("stage", [*STAGES, "show", "export", "recipe", "compare", "search", "ui", "sync"])
def test_help_imports_nothing_heavy(stage: str) -> None:
    command = [sys.executable, "-c", IMPORTED_BY_HELP, module_of(stage)]
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


@pytest.mark.end_to_end
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
    curve, found = pandas.read_csv("evaluation/recall.csv"), json.loads(Path("metrics.json").read_text())["test"]
    assert curve["K"].tolist() == [1, 2], "each fold has two images"
    assert curve.iloc[0, 1:].tolist() == pytest.approx([found[direction]["R1"] for direction in ("i2t", "t2i")])


@pytest.mark.parametrize(("key", "value"), [("train", "heads"), ("image_size", 48)])
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_features_made_for_other_parameters_are_refused(stage: str, key: str, value: str | int, ready: Path) -> None:
    write_tiny_params(ready, **{f"model__{key}": value})
    said = refused(stage)
    assert f"params.yaml says {value}; run `dvc repro features`" in said


def test_features_of_another_split_are_refused(ready: Path) -> None:
    write_tiny_params(ready, data__scenes__train=11)
    run("download", "split")
    assert "holds 12 images and 60 captions, the split 11 and 55; run `dvc repro features`" in refused("train")


def test_heads_of_another_width_are_refused(ready: Path) -> None:
    write_tensors(ready / "models/trained/heads.safetensors", {"image.weight": torch.zeros(3, 3)})
    assert "heads.safetensors: does not fit model.json" in refused("evaluate")


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
    tables = {"false_negatives.csv", "noisy_pairs.csv", "pairs.parquet", "matches.parquet"}
    assert kept == made == {"index.html", "audit.json", *tables}


def test_without_the_run_in_the_store_the_report_is_made_all_the_same(ready: Path) -> None:
    shutil.rmtree(ready / "report")
    write_empty_store(ready)  # as after `dvc pull` in a fresh clone
    assert "report/index.html" in run("audit")
    assert (ready / "report/index.html").exists()


@pytest.mark.end_to_end
def test_a_command_does_the_same_in_an_interpreter_of_its_own(ready: Path) -> None:
    before = files_below(ready)
    for output in ("evaluation", "metrics.json"):
        (ready / output).rename(f"before {output}")
    said, error = succeed(start("evaluate"))
    assert error == ""
    assert said.startswith("test rsum ")
    after = files_below(ready)
    assert {name: after[name] for name in before} == before


def test_nothing_of_an_earlier_run_stays_in_a_stages_output(ready: Path) -> None:
    assert not list(ready.rglob(EARLIER)), "it may be a file that a run writes only with other parameters"


FAULTS_OF_A_STAGE = """
import resource, sys
from stages.command import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(20):
    bytearray(b"1") * (32 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_stage_requests_the_memory_of_a_large_array_once() -> None:
    """32 MiB, twenty times: 8192 pages each time, unless what was freed is kept."""
    faults = {}
    for way in ("returned", "kept"):
        command = [sys.executable, "-c", FAULTS_OF_A_STAGE, way]
        faults[way] = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert faults["returned"] > 4 * faults["kept"]
