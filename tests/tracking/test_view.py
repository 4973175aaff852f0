"""The view that MLflow's pages open: what varies, best first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy.exc import DatabaseError

from pipeline.tracking import Tracker, finished_runs, renew_view, set_up_view, store_uri
from pipeline.tracking.view import TAG, shown_parameters, view_state

PARAMS = {"seed": "1", "sampler.strategy": "fne", "sampler.cutdown": "0.2", "memory.size": "8", "loss.name": "triplet"}
WINDOW = 1440 - 300  # pixels, without MLflow's side bar and the boxes in front of a row
RUNS = [PARAMS | {"train.lr": "0.1"}, PARAMS | {"seed": "2", "sampler.cutdown": "0.1", "train.lr": "0.2"}]


def test_what_varies_comes_first_and_the_seed_last() -> None:
    assert shown_parameters(RUNS) == [
        *("sampler.cutdown", "train.lr", "sampler.strategy", "loss.name", "memory.size", "seed"),
    ]


def test_what_changes_no_result_is_no_column() -> None:
    changed = [run | {"train.workers": str(number), "data.mirror": str(number)} for number, run in enumerate(RUNS)]
    assert shown_parameters(changed) == shown_parameters(RUNS)


def test_every_column_has_a_width_and_a_place() -> None:
    state = view_state(RUNS, ["test/rsum"])
    assert state["columnOrder"][2:] == state["selectedColumns"]
    assert set(state["columnWidths"]) == set(state["columnOrder"])
    assert "metrics.`test/t2i/R10`" in state["selectedColumns"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`test/rsum`", False)


def test_memory_cut_down_and_recalls_fit_a_laptop_s_window() -> None:
    state = view_state(RUNS, ["test/rsum"])
    columns = state["columnOrder"]
    shown = columns[: columns.index("metrics.`test/t2i/R10`") + 1]
    assert {"params.`memory.size`", "params.`sampler.cutdown`", "metrics.`test/i2t/R1`"} <= set(shown)
    assert sum(state["columnWidths"][column] for column in shown) < WINDOW


def test_charts_lie_in_sections_that_exist_and_show_figures_that_do() -> None:
    state = view_state(RUNS, ["test/rsum", "train/loss"])
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])
    assert {chart["metricKey"] for chart in state["compareRunCharts"] if "metricKey" in chart} == {
        "test/rsum",
        "train/loss",
    }
    (parallel,) = (chart for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert parallel["selectedParams"] == ["memory.size", "sampler.cutdown", "train.lr", "seed name"]


def test_hundreds_of_varying_parameters_still_fit_into_a_tag() -> None:
    runs = [{f"section.parameter_{n}": str(run) for n in range(100)} for run in range(2)]
    assert len(json.dumps(view_state(runs, [f"section/metric_{n}" for n in range(60)]))) < 20_000  # MLflow's bound


@pytest.mark.usefixtures("clone")
def test_the_view_is_kept_in_the_experiment() -> None:
    for number, params in enumerate(RUNS):
        tracker = Tracker("ours")
        tracker.begin(f"k{number}", "a run", params, {})
        tracker.log_rows([{"step": 1, "test/rsum": 300.0}])
        tracker.finish()
    links = set_up_view("ours")
    experiment = MlflowClient(tracking_uri=store_uri()).get_experiment_by_name("ours")
    assert experiment is not None
    assert json.loads(experiment.tags[TAG]) == view_state(RUNS, ["test/rsum"])
    runs = MlflowClient(tracking_uri=store_uri()).search_runs([experiment.experiment_id])
    assert {run.data.params["seed name"] for run in runs} == {f"seed {run['seed']}" for run in RUNS}
    assert all("seed name" not in run["params"] for run in finished_runs("ours"))
    assert links["table"].startswith(f"/#/experiments/{experiment.experiment_id}/runs?")
    assert "viewStateShareKey=comparison" in links["charts"]


def test_a_store_that_fails_at_the_end_of_an_experiment_fails_no_stage(clone: Path) -> None:
    (clone / "mlflow.db").write_bytes(b"no database")
    with pytest.raises(DatabaseError):
        set_up_view("ours")
    renew_view("ours")
