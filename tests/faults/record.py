"""What a tracking store has of a run, beside what the stages wrote."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run


def runs(server: int, experiment: str) -> list[Run]:
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{server}")
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def figures(server: int, run_id: str, names: list[str]) -> Counter[tuple[str, int, float]]:
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{server}")
    return Counter(
        (name, metric.step, metric.value) for name in names for metric in client.get_metric_history(run_id, name)
    )


def history(folder: Path) -> Counter[tuple[str, int, float]]:
    with open(folder / "train/history.csv") as handle:
        rows = list(csv.DictReader(handle))
    return Counter(
        (name, int(row["step"]), float(value))
        for row in rows
        for name, value in row.items()
        if name not in ("epoch", "step") and value and value != "nan"
    )


def told_everything(server: int, experiment: str, folder: Path) -> bool:
    """One run, finished, each figure of the training once."""
    (found,) = runs(server, experiment)
    expected = history(folder)
    names = sorted({name for name, _, _ in expected})
    return found.info.status == "FINISHED" and figures(server, found.info.run_id, names) == expected


def flattened(metrics: Any, prefix: str = "") -> dict[str, float]:
    """`{"test": {"mAP@R": 1}}` by the names in MLflow: `{"test/mAP_at_R": 1.0}`."""
    if not isinstance(metrics, dict):
        return {prefix: float(metrics)}
    names = {name: f"{prefix}/{name}".strip("/").replace("@", "_at_") for name in metrics}
    return {key: value for name, part in metrics.items() for key, value in flattened(part, names[name]).items()}


def artifacts(found: Run, folder: Path) -> dict[str, bytes]:
    """Every file that a run keeps."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    MlflowClient().download_artifacts(found.info.run_id, "", str(folder))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def models(found: Run, name: str) -> list[Any]:
    """What the registry and the run's experiment say of its models."""
    client = MlflowClient()
    versions = [dict(version) for version in client.search_model_versions(f"name = '{name}'")]
    return [versions, [model.to_dictionary() for model in client.search_logged_models([found.info.experiment_id])]]


def warnings(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("warning: ")]
