"""Runs as stages write them, and all that a store has of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import EVALUATE_KEY, TRAIN_KEY, Tracker, store_uri

PARAMS: Mapping[str, Any] = {"memory.size": 8, "data.root": None, "train.milestones": [4]}
EXPERIMENT = "ours"  # a test with a server has one of its own


def begun(key: str = "k", *, restart: bool = False) -> Tracker:
    """A training's run with three steps."""
    tracker = Tracker(EXPERIMENT)
    tracker.begin(key, f"run {key}", PARAMS, {"git.commit": "c0ffee", "data.digest": "da7a"}, restart=restart)
    rows = [{"epoch": 0, "step": step, "time": 1000 + step, "train/loss": 1 / (step + 1)} for step in range(3)]
    tracker.log_rows([*rows, {"step": 3, "val/rsum": float("nan"), "val/i2t/R1": float("inf")}])
    return tracker


def trained(key: str = "k", *, restart: bool = False) -> Tracker:
    """The same, finished."""
    tracker = begun(key, restart=restart)
    tracker.data_set("scenes", "training", "abc" * 9, {"stage": "download"}, {"images": 1})
    tracker.finish()
    return tracker


def evaluated(key: str = "k", evaluate_key: str = "e", *, model: str | None = None, killed: bool = False) -> Tracker:
    """As stage `evaluate` does; `killed`: before its metrics are written."""
    tracker = Tracker(EXPERIMENT)
    if tracker.continue_for_evaluation(key, evaluate_key, f"run {key}", PARAMS, {}):
        Path("metrics.json").write_text(evaluate_key)
        tracker.artifact(Path("metrics.json"))
        tracker.describe("**recalls**")
        if model is not None:
            Path("models").mkdir(exist_ok=True)
            Path("models/model.safetensors").write_bytes(b"weights")
            tracker.keep_model(model, "pipeline.serving", {"trained": Path("models")}, {"caption": "a dog"}, 3)
        if not killed:
            tracker.log_rows([{"step": 2, "test/rsum": 100.0}])
            tracker.finish()
    return tracker


def runs(uri: str | None = None) -> list[Run]:
    """Newest first."""
    client = MlflowClient(tracking_uri=uri or store_uri())
    found = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([found.experiment_id])) if found else []


def steps(run: Run, name: str, uri: str | None = None) -> list[tuple[int, float]]:
    """Of a metric: step and value, one that is there twice included."""
    history = MlflowClient(tracking_uri=uri or store_uri()).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def record(uri: str) -> list[dict[str, Any]]:
    """All that a store has of the experiment's runs, ids left out: equal for a store and its copy."""
    client, found = MlflowClient(tracking_uri=uri), runs(uri)
    names = {run.info.run_id: run.info.run_name for run in found}

    def files(run: Run, folder: str = "") -> list[tuple[str, str]]:
        listed = client.list_artifacts(run.info.run_id, folder)
        below = [part for item in listed if item.is_dir for part in files(run, item.path)]
        kept = [item.path for item in listed if not item.is_dir]
        return below + [
            (path, Path(client.download_artifacts(run.info.run_id, path)).read_text("latin1")) for path in kept
        ]

    def content(run: Run) -> dict[str, Any]:
        ours, inputs = (TRAIN_KEY, EVALUATE_KEY), run.inputs.dataset_inputs if run.inputs else []
        tags = {
            name: value for name, value in run.data.tags.items() if name in ours or not name.startswith("pipeline.")
        }
        tags["mlflow.parentRunId"] = names.get(tags.get("mlflow.parentRunId", ""), "")
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        return {
            "info": [run.info.run_name, run.info.status, run.info.start_time, run.info.end_time],
            "params": run.data.params,
            "tags": tags,
            "metrics": {name: steps(run, name, uri) for name in sorted(run.data.metrics)},
            "data": sorted((read.dataset.name, read.dataset.digest, read.tags[0].value) for read in inputs),
            "files": sorted(files(run)),
            "models": [
                (model.name, model.status, len(client.list_logged_model_artifacts(model.model_id))) for model in models
            ],
            "versions": {one.name: one.tags for one in client.search_model_versions(f"run_id = '{run.info.run_id}'")},
        }

    return sorted(map(content, found), key=lambda one: (one["info"][2], one["info"][0]))
