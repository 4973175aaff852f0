"""The benchmark: what its tables may hold, what its page says of them, and a row of somebody else's."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner

from benchmarks import field
from benchmarks.field_methods import BASELINE, CELLS, CLEAN, METHODS, SHUFFLED, methods_of
from benchmarks.field_page import against, figure, final_of, page
from benchmarks.field_table import CONTRIBUTED, check_rows, read_runs
from benchmarks.studies import FINAL_SEEDS, STUDIES
from benchmarks.study import Driver
from benchmarks.trials import COLUMNS
from pipeline.retrieval.recall import recall_names


def row(method: str, seed: int, rsum: float, *, study: str = "field-flickr8k", case: str = CLEAN) -> dict[str, Any]:
    known = METHODS[method].overrides if method in METHODS else {"sampler.strategy": "mine.top"}
    overrides = {**STUDIES[study].settings, **STUDIES[study].cases[case], **known}
    found: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    found |= {"study": study, "case": case, "method": method, "phase": "final", "seed": seed, "val_rsum": 200}
    found |= {"overrides": json.dumps(overrides, sort_keys=True), "machine": "m", "date": "d", "code": "c"}
    for part in ("best", "last"):
        found |= {f"{part}/{name}": rsum / 6 for name in recall_names("/")} | {f"{part}/rsum": rsum}
        found |= {f"{part}/judged/rsum": rsum + 9, f"{part}/posterior/auc": 0.8, f"{part}/truth/i2t/mAP@R": 30}
        found |= {f"{part}/truth/t2i/mAP@R": 40}
    return found | {"trust/auc": 0.9 if "noise" in case else "", "seconds": 5, "processor_seconds": 4}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rsum = {BASELINE: (200, 202, 204), "HCL": (206, 207, 211), "SigLIP": (190, 193, 193), "LG": (195, 203, 212)}
    rows = [row(name, seed, value) for name, values in rsum.items() for seed, value in enumerate(values, 1)]
    rows += [row(name, 1, 150, case=SHUFFLED) for name in (BASELINE, "OSA")]
    write(tmp_path / "field-flickr8k.csv", rows)
    mine = [row("top", seed, value) for seed, value in enumerate((209, 212, 213), 1)]
    write(tmp_path / f"{CONTRIBUTED}/top-field-flickr8k.csv", mine)
    return tmp_path


def test_the_page_compares_with_infonce_over_the_same_seeds_and_marks_what_is_clear(results: Path) -> None:
    assert check_rows(results) == []
    runs = read_runs(results)
    text = page(runs, results)
    lines = text.splitlines()
    cell = lines[lines.index(f"## Flickr8k: {CLEAN}") :]
    rows = [line.strip("| ").split(" | ") for line in cell[6:11]]
    assert [cells[0] for cells in rows] == [BASELINE, "top", "HCL", "LG", "SigLIP"]
    for column in (-2, -1):  # by rsum, and by judged rsum, which is 9 above it in every row
        assert [cells[column].rpartition("]")[2].strip() for cells in rows[1:]] == ["▲", "▲", "", "▼"]
    assert rows[2][3:7] == ["208.0 ± 6.6", "217.0 ± 6.6", "35.0 ± 0.0", "0.800 ± 0.000"]
    assert "| Flickr8k: clean | judged rsum | top | **+9.3** [+7.9, +10.8] ▲ | 2 | 1 | 1 |" in text
    found = against(final_of(runs, "field-flickr8k", CLEAN), "HCL")
    assert found is not None
    assert found.value == pytest.approx(6.0)
    assert "| OSA | t |  | 150.0 | 159.0 | 35.0 | 0.900 | 4 | +0.0 | +0.0 |" in text, "one seed has no interval"


def test_what_was_not_run_is_said_and_published_figures_stand_apart(results: Path) -> None:
    text = page(read_runs(results), results)
    left = text[text.index("## What was left out") : text.index("## Published figures")]
    clean = next(line for line in left.splitlines() if line.startswith("- Flickr8k, clean:"))
    assert "GIST" in clean
    assert "HCL" not in clean
    assert "CUSA, CLIP B/32" in text[text.index("## Published figures") :]
    assert "Not run yet" in page(read_runs(results / "none"), results / "none")


def test_the_same_rows_make_the_same_figure(results: Path, tmp_path: Path) -> None:
    runs = read_runs(results)
    for name in ("one.svg", "two.svg"):
        figure(runs, tmp_path / name)
    content = (tmp_path / "one.svg").read_bytes()
    assert content == (tmp_path / "two.svg").read_bytes()
    assert b"HCL" in content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"best/rsum": 300}, "best/rsum = 300, but the six recalls add up to 200"),
        ({"best/i2t/R1": 101}, "best/i2t/R1 = '101': expected a number from 0 to 100"),
        ({"trust/auc": "nan"}, "trust/auc = 'nan': expected a number from 0 to 1"),
        ({"seed": 9}, "seed '9': allowed are tune (11,) and final"),
        ({"case": "clear"}, "case 'clear': allowed are field-flickr8k: clean"),
        ({"method": BASELINE}, "a name of this project's; choose another"),
        ({"machine": ""}, "machine is empty"),
        ({"overrides": "[]"}, "overrides: not a JSON object"),
        ({"overrides": json.dumps({"train.epochs": 10})}, "overrides: train.optimiser = None, the cell has 'adamw'"),
    ],
)
def test_a_table_that_was_changed_is_refused(change: dict[str, Any], said: str, results: Path) -> None:
    path = write(results / f"{CONTRIBUTED}/other.csv", [row("other", 1, 200) | change])
    (problem, *_) = check_rows(results)
    assert problem.startswith(f"{path}, line 2: ")
    assert said in problem


def test_other_data_and_a_missing_column_are_refused(results: Path) -> None:
    lacking = row("other", 1, 200)
    overrides = json.loads(lacking["overrides"]) | {"data.noise.ratio": 0.1}
    path = write(results / f"{CONTRIBUTED}/other.csv", [lacking | {"overrides": json.dumps(overrides)}])
    assert any("data.noise.ratio changes the data of the cell" in problem for problem in check_rows(results))
    del lacking["last/rsum"]
    write(path, [lacking])
    assert any("no column 'last/rsum'" in problem for problem in check_rows(results))
    write(path, [row("top", 1, 200)])
    assert any("the same trial as" in problem for problem in check_rows(results))


def test_the_broad_table_has_every_method_where_it_can_show(tmp_path: Path) -> None:
    for study, cells in CELLS.items():
        for cell in cells:
            named = methods_of(study, cell)
            assert named[0] == BASELINE
            groups = {METHODS[name].group for name in named}
            assert ("t" in groups) == (cell in (SHUFFLED, "noise 0.4, same noun"))
    assert {name for study, cells in CELLS.items() for cell in cells for name in methods_of(study, cell)} == set(
        METHODS
    )
    driver = Driver("field-flickr8k", tmp_path / "none.csv", tmp_path, (), methods=("OSA",), seeds=2)
    assert driver.compared() == [(cell, "OSA") for cell in CELLS["field-flickr8k"]]
    assert {trial.seed for trial in driver.final_trials(guess=True)} == set(FINAL_SEEDS[:2])


def test_a_method_of_ones_own_is_run_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def note(self: Driver, trials: Any, jobs: int, limit: int) -> int:
        asked.append((self.path, trials))
        return 0

    monkeypatch.setattr(Driver, "run", note)
    arguments = ["run", "--own", "top", "--with", "sampler.strategy=hcl", "--tune", "sampler.beta=1,2,3"]
    arguments += ["--study", "field-flickr8k", "--only", "clean", "--results", str(tmp_path)]
    result = CliRunner().invoke(field.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (path, trials), _ = asked
    assert path == tmp_path / f"{CONTRIBUTED}/top-field-flickr8k.csv"
    assert [trial.overrides["sampler.beta"] for trial in trials] == [1, 2, 3]
    assert {trial.overrides["sampler.strategy"] for trial in trials} == {"hcl"}
    for wrong, said in (
        (["--tune", "sampler.beta=1,2"], "2 values, expected 3"),
        (["--own", "OSA"], "expected a new name"),
        (["--with", "hcl"], "expected NAME=VALUE"),
        (["--method", "nothing"], "not one of InfoNCE"),
        (["--method", "InfoNCE"], "--own top: runs this method alone; leave --method out"),
    ):
        refused = CliRunner().invoke(field.main, [*arguments, *wrong])
        assert refused.exit_code == 1
        assert said in refused.output


def test_the_tables_of_this_project_are_right() -> None:
    assert check_rows(Path("docs/results")) == []
    assert isinstance(read_runs(Path("docs/results")), pandas.DataFrame)


def test_a_table_says_what_was_chosen_and_whose_weights_are_of_the_warm_up(results: Path) -> None:
    path = results / "field-flickr8k.csv"
    rows = list(csv.DictReader(path.open()))
    for each in rows:
        each["best_epoch"] = "1" if each["method"] == "LG" and each["seed"] != "2" else "4"
    for method, rsums in {"HCL": (200, 201, 202), "LG": (200, 200, 200), "SigLIP": (203, 204, 202)}.items():
        name, values = METHODS[method].tries("field-flickr8k")
        for value, rsum in zip(values, rsums, strict=True):
            tried = row(method, 11, 0, study="field-flickr8k") | {"phase": "tune", "val_rsum": rsum}
            rows.append(tried | {"overrides": json.dumps(json.loads(tried["overrides"]) | {name: value})})
        for final in (each for each in rows if each["method"] == method and each["phase"] == "final"):
            best = values[rsums.index(max(rsums))]
            final["overrides"] = json.dumps(json.loads(final["overrides"]) | {name: best})
    write(path, rows)
    text = page(read_runs(results), results)
    assert "| HCL | w | beta 1 ↑ |" in text
    assert "| LG | w | any |" in text
    assert "| SigLIP | loss | temperature 0.05 |" in text, "the middle one has no mark"
    assert "`train.warmup` names: LG (2 of 3 seeds).\n" in text
