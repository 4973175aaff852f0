"""One MLflow run an experiment, found again by what it was computed from.

A run is found by a digest of its parameters and inputs (tag `pipeline.train_key`), never by a random id between the
stages: so a fresh clone after `dvc pull` can evaluate, and a resumed training goes on in the run that it began.
Tracking never stops a training: when the store fails, one warning is printed and the stage's own files have it all.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.files import main_root
from pipeline.tracking.store import PATIENCE, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Answer = TypeVar("Answer")

TRAIN_KEY = "pipeline.train_key"
EVALUATE_KEY = "pipeline.evaluate_key"
EVALUATED = "test/rsum"  # a run that has been evaluated has this; all of an evaluation's figures arrive at once
BATCH = 1000  # metrics a request, MLflow's limit


@dataclass(frozen=True)
class Point:
    """One figure of one moment; sending the same one twice changes nothing."""

    name: str
    value: float
    step: int
    time: int
    """Milliseconds since 1970."""


class Tracker:
    """Writes into one MLflow run, or does nothing once the store has failed."""

    def __init__(self, experiment: str, *, silent: bool = False) -> None:
        """Open the store and the experiment, creating both where they are missing; `silent`: do nothing at all."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        self.run_id: str | None = None
        self.failed = silent
        self._experiment = experiment
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._attempt(self._open)

    def begin(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Go on in the unfinished run of `key`, or begin one."""

        def begin() -> None:
            run = self._find(TRAIN_KEY, key)
            if run is None or run.info.status == "FINISHED":
                run = self._create(name, params, {TRAIN_KEY: key, **tags})
            else:
                self._mlflow.update_run(run.info.run_id, status="RUNNING")
            self.run_id = run.info.run_id

        self._attempt(begin)

    def continue_for_evaluation(
        self, key: str, evaluate_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> bool:
        """Find the run that trained (or make one, after a `dvc pull`); False if this evaluation is already in it.

        A second evaluation with other settings becomes a child run: its figures must not mix with the first one's.
        """

        def begin() -> bool:
            run = self._find(TRAIN_KEY, key) or self._create(name, params, {TRAIN_KEY: key, **tags})
            if run.data.tags.get(EVALUATE_KEY, evaluate_key) != evaluate_key:
                child = self._find(EVALUATE_KEY, evaluate_key, parent=run.info.run_id)
                parent = {"mlflow.parentRunId": run.info.run_id}
                run = child or self._create(f"{name} (evaluated again)", params, {**tags, **parent})
            self.run_id = run.info.run_id
            self._mlflow.set_tag(self.run_id, EVALUATE_KEY, evaluate_key)
            return EVALUATED not in run.data.metrics  # the tag alone is left by an evaluation that was killed

        return self._attempt(begin) or False

    def log(self, points: Iterable[Point]) -> None:
        """Send figures; those that were sent before stay as they are."""

        def send() -> None:
            metrics = [self._metric(point) for point in points if math.isfinite(point.value)]
            for start in range(0, len(metrics), BATCH):
                self._mlflow.log_batch(self._run, metrics=metrics[start : start + BATCH])

        if self.run_id is not None:
            self._attempt(send)

    def log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Send a training's records: every figure beside `epoch`, `step` and `time`."""
        place = ("epoch", "step", "time")
        self.log(
            Point(name, float(value), row["step"], row["time"])
            for row in rows
            for name, value in row.items()
            if name not in place
        )

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file in the run."""
        if self.run_id is not None:
            self._attempt(lambda: self._mlflow.log_artifact(self._run, str(path), folder))

    def describe(self, text: str) -> None:
        """Put Markdown above the run's page."""
        if self.run_id is not None:
            self._attempt(lambda: self._mlflow.set_tag(self._run, "mlflow.note.content", text))

    def data_set(
        self, name: str, context: str, digest: str, source: Mapping[str, Any], rows: Mapping[str, int]
    ) -> None:
        """Say what the run read: `context` is training, validation or test; the first 16 digits of `digest` show."""

        def log() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            data = Dataset(name, digest[:16], "local", json.dumps(dict(source)), profile=json.dumps(dict(rows)))
            self._mlflow.log_inputs(self._run, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

        if self.run_id is not None:
            self._attempt(log)

    def keep_model(
        self, name: str, loader: str, folders: Mapping[str, Path], example: Mapping[str, Any], step: int
    ) -> None:
        """Keep the run's model and register it, as `pipeline.tracking.model.keep_model` says."""
        from pipeline.tracking.model import keep_model

        if self.run_id is not None:
            self._attempt(
                lambda: keep_model(self._mlflow, self._experiment_id, self._run, name, loader, folders, example, step)
            )

    def tag_experiment(self, tags: Mapping[str, str]) -> str | None:
        """Set tags of the experiment; its id, or None once the store has failed."""

        def tag() -> str:
            for name, value in tags.items():
                self._mlflow.set_experiment_tag(self._experiment_id, name, value)
            return self._experiment_id

        return self._attempt(tag)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        if self.run_id is not None:
            self._attempt(lambda: self._mlflow.set_terminated(self._run, status))

    @property
    def _mlflow(self) -> MlflowClient:
        if self._client is None:
            raise RuntimeError("the tracking store is not open")
        return self._client

    @property
    def _run(self) -> str:
        if self.run_id is None:
            raise RuntimeError("no run was begun")
        return self.run_id

    def _open(self) -> None:
        from filelock import FileLock
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = store_uri()
        # Two processes that create the database at once crash in its migrations.
        with FileLock(main_root() / ".mlflow.lock"):
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                # The default would be the working directory, which a queued experiment loses.
                place = (main_root() / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
                try:
                    self._experiment_id = self._client.create_experiment(self._experiment, artifact_location=place)
                    return
                except MlflowException:  # another machine was faster: a lock file reaches only this one
                    found = self._client.get_experiment_by_name(self._experiment)
                    if found is None:
                        raise
            self._experiment_id = found.experiment_id

    def _find(self, tag: str, value: str, parent: str | None = None) -> Run | None:
        """The newest run with this tag."""
        condition = f"tags.`{tag}` = '{value}'"
        if parent is not None:
            condition += f" and tags.`mlflow.parentRunId` = '{parent}'"
        found = self._mlflow.search_runs(
            [self._experiment_id], condition, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return found[0] if found else None

    def _create(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        from mlflow.entities import Param

        run = self._mlflow.create_run(self._experiment_id, run_name=name, tags=dict(tags))
        logged = [Param(key, "null" if value is None else str(value)) for key, value in params.items()]
        self._mlflow.log_batch(run.info.run_id, params=logged)
        return run

    @staticmethod
    def _metric(point: Point) -> Metric:
        from mlflow.entities import Metric

        return Metric(point.name, point.value, point.time, point.step)

    def _attempt(self, action: Callable[[], Answer]) -> Answer | None:
        if self.failed:
            return None
        try:
            return action()
        except Exception as error:  # whatever a store throws, an experiment must not be lost to its record
            self.failed = True
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(
                f"warning: MLflow at {store_uri()} failed ({first_line}); going on without it. "
                "The figures are in train/history.csv and metrics.json",
                file=sys.stderr,
            )
            return None


def origin_tags() -> dict[str, str]:
    """Where a run comes from: DVC experiment and baseline, git commit."""
    tags = {
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "mlflow.source.name": "dvc " + ("exp run" if "DVC_EXP_NAME" in os.environ else "repro"),
    }
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        tags["git.commit"] = tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return {name: value for name, value in tags.items() if value}
