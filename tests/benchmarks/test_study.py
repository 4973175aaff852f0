"""The driver of studies: a trial is what the stages make, choices are by validation, and nothing is run twice."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from click.testing import CliRunner

from benchmarks import preparation
from benchmarks.preparation import DONE, folder_of, prepare, stage_key, stages_before
from benchmarks.results import WARM_UP, study_tables
from benchmarks.studies import HARDEST, INFONCE, STUDIES, TRIPLET, Study, grid_points, points_of
from benchmarks.study import Driver, main, read_rows
from benchmarks.trials import METRICS, Trial, run_trial
from pipeline.data.splits.truth_file import read_noise, read_truth
from pipeline.errors import InputError
from pipeline.features.shards import all_features
from pipeline.params import Params, flat, load_params
from pipeline.paths import LAST_METRICS, SPLIT
from pipeline.paths import METRICS as REPORT
from tests.stages.running import STAGES, TINY_SCENES, TINY_TOWERS, run, run_in, work_in, write_tiny_params

BEFORE = STAGES[: STAGES.index("train")]
TINY = {
    name.replace("__", "."): value for name, value in {**TINY_SCENES, **TINY_TOWERS, "model__train": "heads"}.items()
}
STUDY = Study(
    title="Tiny",
    settings=TINY,
    methods={"InfoNCE": {"sampler.strategy": "all"} | INFONCE, "triplet": HARDEST | TRIPLET},
    variants={"triplet": {"wide": {"memory.size": 16}, "unknown": {"model.colour": 1}}},
    grid={"scale": ("small", "middle", "large"), "train.lr": (0.001, 0.01)},
    points=2,
)


@pytest.fixture
def prepared(heads_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of preparations with that of `STUDY`, which is called `cutdown` here."""
    monkeypatch.setitem(STUDIES, "cutdown", STUDY)
    params = load_tiny(tmp_path)
    folder = folder_of(tmp_path / "prepared", params)
    shutil.copytree(heads_ready, folder)
    (folder / DONE).write_text(json.dumps({stage: stage_key(params, stage) for stage in BEFORE}))
    return tmp_path / "prepared"


def load_tiny(folder: Path, **changes: Any) -> Params:
    write_tiny_params(folder, **{"model__train": "heads", **changes})
    return load_params(folder / "params.yaml")


def test_a_trial_is_what_the_stages_train_and_evaluate_make(
    heads_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(heads_ready, folder)
    work_in(folder, monkeypatch)
    params = load_tiny(folder, train__epochs=3, train__ema=0.9)
    run("train", "evaluate")
    rows = [run_trial(Trial("tiny", "", "FNE", "final", params.seed, {}), params, folder, 60) for _ in range(2)]
    expected = json.loads(REPORT.read_text()) | {"last": json.loads(LAST_METRICS.read_text())}
    sampling = pandas.read_csv("evaluation/sampling.csv").set_index("epoch")
    for row in rows:  # the second one in the same process too
        for part, name in (("best", "test"), ("last", "last")):
            found = {key.replace(".", "/"): value for key, value in flat(expected[name]).items()}
            same = {key: row[f"{part}/{key}"] for key in METRICS if key in found}
            assert same == pytest.approx({key: found[key] for key in same}, rel=1e-4)
            assert len(same) >= 9, "recalls, their sum and mAP@R"
        share = sampling.loc[row["best_epoch"] - 1, "false_negative_share"]
        assert row["best/sampler/false_negative_share"] == pytest.approx(share, rel=1e-4)


def test_a_trial_ends_at_its_limit(prepared: Path, tmp_path: Path) -> None:
    params = load_tiny(tmp_path, train__epochs=10_000)
    with pytest.raises(TimeoutError):
        run_trial(Trial("tiny", "", "FNE", "tune", 1, {}), params, folder_of(prepared, params), 1)


def test_the_best_setting_by_validation_is_trained_with_five_seeds_and_no_row_is_made_twice(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as on a machine without them
    (tmp_path / "absent").mkdir()
    for name in ("dvc", "mlflow"):
        (tmp_path / f"absent/{name}.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))

    def go() -> tuple[str, list[dict[str, Any]]]:
        arguments = ["cutdown", "--jobs", "1", "--results", str(tmp_path), "--prepared", str(prepared)]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output, read_rows(tmp_path / "cutdown.csv")

    said, rows = go()
    assert "left out: : triplet, unknown" in said
    tune = [row for row in rows if row["phase"] == "tune"]
    assert len(tune) == 4
    assert not any(row["best/rsum"] for row in tune), "the test split has no say in the choice"
    final = [row for row in rows if row["phase"] == "final"]
    assert sorted((row["method"], row["seed"]) for row in final) == [
        (method, str(seed)) for method in ("InfoNCE", "triplet", "triplet, wide") for seed in range(1, 6)
    ]
    for method in ("InfoNCE", "triplet"):
        best = max((row for row in tune if row["method"] == method), key=lambda row: float(row["val_rsum"]))
        for row in final:
            if row["method"] == method:
                assert json.loads(row["overrides"]) == json.loads(best["overrides"])

    lost = rows.pop(5)
    with open(tmp_path / "cutdown.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lost))
        writer.writeheader()
        writer.writerows({**row, "date": "earlier"} for row in rows)
    said, again = go()
    assert "1/1" in said
    assert [row["date"] == "earlier" for row in again].count(False) == 1
    timed = ("seconds", "processor_seconds", "date")
    assert [{k: v for k, v in row.items() if k not in timed} for row in again if row["date"] != "earlier"] == [
        {k: v for k, v in lost.items() if k not in timed}
    ]


def test_a_table_of_an_earlier_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenes-noise.csv"
    path.write_text("method,seed,test/rsum\nNPC,1,269.35\n")
    with pytest.raises(InputError, match=r"scenes-noise\.csv: its rows are of an earlier format"):
        Driver("scenes-noise", path, tmp_path, ())


def test_preparations_depend_on_what_their_stages_read_and_on_nothing_else(tmp_path: Path) -> None:
    def keys(**changes: Any) -> list[str]:
        return [stage_key(load_tiny(tmp_path, **changes), stage) for stage in stages_before("train")]

    assert stages_before("train") == list(BEFORE)
    before = keys()
    same = {
        name: [one == other for one, other in zip(before, keys(**{name: value}), strict=True)]
        for name, value in CHANGES.items()
    }
    assert same["train__lr"] == [True] * 6
    assert same["base__seed"] == [True, True, False, False, False, False]
    assert same["data__noise__ratio"] == [True, False, False, False, False, False]
    assert same["evidence__seed"] == [True, True, True, True, False, False]


def test_preparations_depend_on_the_code_of_their_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_tiny(tmp_path)

    def keys(changed: str) -> list[str]:
        preparation._code.cache_clear()
        monkeypatch.setattr(preparation, "code_digests", lambda stage, root: {"a.py": str(stage == changed)})
        return [stage_key(params, stage) for stage in BEFORE]

    before, after = keys("none"), keys("base")
    preparation._code.cache_clear()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, *[False] * 4]


def test_a_row_names_the_parameters_that_its_overrides_do_not(tmp_path: Path) -> None:
    driver = Driver("cutdown", tmp_path / "none.csv", tmp_path, ())
    before = driver.code()
    driver.content["train"]["clip"] = 0.5
    assert driver.code() != before


CHANGES: dict[str, Any] = {"train__lr": 0.5, "base__seed": 3, "data__noise__ratio": 0.5, "evidence__seed": 3}


@pytest.mark.parametrize("kind", ["shuffle", "noun"])
def test_noise_over_frozen_features_is_what_the_stages_make(kind: str, prepared: Path, tmp_path: Path) -> None:
    noisy = {"model__train": "heads", "data__noise__ratio": 0.5, "data__noise__kind": kind}
    expected = run_in(tmp_path / "stages", *BEFORE, **noisy)
    params = load_tiny(tmp_path, **noisy)
    prepare(prepared, [params], 1)
    made = folder_of(prepared, params)
    for name in ("train.json", "val.json", "noise.json"):
        assert (made / SPLIT / name).read_text() == (expected / SPLIT / name).read_text()
    assert read_noise(made / SPLIT) is not None
    truths = [read_truth(folder / SPLIT, "train") for folder in (made, expected)]
    ours, theirs = (set(zip(truth.image_P, truth.caption_P, strict=True)) for truth in truths if truth is not None)
    assert ours == theirs
    for kind in ("images", "captions"):
        one, other = (all_features(folder / "features/train", kind) for folder in (made, expected))
        torch.testing.assert_close(one, other)


def test_all_methods_of_a_study_try_the_same_number_of_settings() -> None:
    for name, study in STUDIES.items():
        infonce, triplet = grid_points(study, "infonce"), grid_points(study, "triplet")
        if study.own:
            assert {len(points_of(study, method, "infonce")) for method in study.methods} == {3}, name
        if study.grid:
            assert len(infonce) == len(triplet) == study.points, name
            shared = [{key: value for key, value in point.items() if "loss" not in key} for point in infonce]
            assert shared == [{key: value for key, value in point.items() if "loss" not in key} for point in triplet]


def test_every_trial_of_every_study_has_valid_parameters(tmp_path: Path) -> None:
    for name in STUDIES:
        driver = Driver(name, tmp_path / "none.csv", tmp_path, ())
        trials = driver.tune_trials() + driver.final_trials(guess=True)
        for trial in trials:
            warm_up = driver.params(trial).train.warmup_epochs
            told = trial.overrides.get("train.warmup_epochs", WARM_UP)  # what the tables take it for
            assert warm_up == told or name == "scenes-noise", "whose table has no epochs"
        assert len({trial.identity for trial in trials}) == len(trials)


def test_tables_show_t_intervals_over_seeds_and_paired_differences() -> None:
    rsum = {"InfoNCE": (200.0, 202.0, 204.0), "triplet": (201.0, 204.0, 207.0), "triplet, wide": (190.0, 203.0, 207.0)}
    columns = {f"{part}/{name}": float("nan") for part in ("best", "last") for name in METRICS}
    rows = [
        columns
        | {"case": "", "method": method, "phase": "final", "seed": seed, "overrides": "{}", "best_epoch": 3}
        | {f"{part}/rsum": value for part in ("best", "last")}
        for method, values in rsum.items()
        for seed, value in enumerate(values)
    ]
    rows[0]["best_epoch"] = 1
    tried = {"case": "", "method": "triplet", "phase": "tune", "seed": 11, "val_rsum": 100.0}
    for margin, epoch in ((0.1, 3), (0.2, 1)):
        setting = {"overrides": json.dumps({"loss.margin": margin}), "best_epoch": epoch}
        rows.append(columns | tried | setting | {"val_rsum": 100 + margin})
    page = study_tables(STUDY, pandas.DataFrame(rows))
    assert "`train.warmup` names: InfoNCE (1 of 3 seeds).\n" in page
    assert "| `loss.margin 0.2` by its warm-up |" in page
    t = 4.303  # the 97.5 % point of Student's t with two degrees of freedom
    assert f"| 202.0 ± {t * 2 / math.sqrt(3):.1f} |" in page
    assert f"| triplet | +2.0 [{2 - t / math.sqrt(3):+.1f}, {2 + t / math.sqrt(3):+.1f}]" in page
    assert page.index("| triplet |") < page.index("| triplet, wide |")
