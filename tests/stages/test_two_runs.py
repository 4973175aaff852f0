"""What the stages left of two runs is compared: by `commands.compare`, and by a page of one against the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from commands.audit import main as audit
from pipeline import dependencies
from pipeline.comparison.rows import METRICS, compared, grouped
from pipeline.params import dotted, load_params
from pipeline.tracking import finished_runs
from tests.stages.running import STAGES, invoke_with, run, write_tiny_params


def run_before() -> dict[str, Any]:
    """As in the store: the run before the last one."""
    _, before = finished_runs(load_params().tracking.experiment)
    return before


def page_against(run_id: str) -> Result:
    return CliRunner().invoke(audit, ["--against", run_id, "--to", "against"], catch_exceptions=False)


def test_a_run_has_the_parameters_of_its_evaluation(ready: Path) -> None:
    """Not those that params.yaml had during the training: no other stage reads `evaluate.*`."""
    run("train")
    write_tiny_params(ready, evaluate__folds=3, audit__queries=7)
    run("evaluate")
    expected = {name: "null" if value is None else str(value) for name, value in dotted(load_params()).items()}
    assert finished_runs(load_params().tracking.experiment)[0]["params"] == expected


def test_an_evaluation_by_other_code_is_a_run_of_its_own(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_params(ready, evaluate__batch_size=3)
    run("evaluate")
    (first,) = finished_runs(load_params().tracking.experiment)
    monkeypatch.setattr(dependencies, "code_digests", lambda stage, _root: {f"stages/{stage}.py": "edited"})
    run("evaluate")
    second, again = finished_runs(load_params().tracking.experiment)
    assert again == first, "the batch size changes no result"
    assert f"run: {second['name']}; " in run("audit"), "the report is of the newest evaluation"
    assert second["name"] == f"{first['name']} (evaluated again)"
    one, other = (row.varying for row in compared(grouped([second, first]), [], METRICS, lambda _run: None))
    assert one.keys() == other.keys() == {"code.digest"}


def test_two_runs_are_compared_query_by_query(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "low")
    run("train", "evaluate")
    monkeypatch.delenv("DVC_EXP_NAME")
    write_tiny_params(ready, sampler__cutdown=0.3)
    run("train", "evaluate")
    chosen = ["test/rsum", "test/judged/rsum", "test/truth/i2t/mAP_at_R"]
    metrics = [part for name in chosen for part in ("--metric", name)]
    result = invoke_with("compare", *metrics, "--baseline", "sampler.cutdown=0.3", "--csv", "table.csv")
    assert result.exit_code == 0, result.output
    (other,) = [line for line in Path("table.csv").read_text().splitlines()[1:] if not line.startswith("0.3")]
    assert other.split(",").count("queries") == len(chosen), "each metric has an interval over the queries"
    there = run_before()
    for name in (there["run_id"], "low"):
        result = page_against(name)
        assert result.exit_code == 0, result.output
    assert there["name"] in Path("against/index.html").read_text()


def test_runs_judged_on_other_pictures_are_not_compared_query_by_query(ready: Path) -> None:
    run("train", "evaluate")
    write_tiny_params(ready, data__scenes__seed=2)
    run(*STAGES[:-1])
    result = invoke_with("compare", "--metric", "test/rsum", "--baseline", "data.scenes.seed=1")
    assert result.exit_code == 0, result.output
    assert "the rows were judged on different test splits" in result.output
    assert "No interval: one common seed, and no ranks.parquet of the same queries" in result.output
    there = run_before()["run_id"]
    result = page_against(there)
    assert result.exit_code == 1
    assert result.output == f"error: --against {there}: was judged on another test split than data/split/test.json\n"
    assert not Path("against").exists()
