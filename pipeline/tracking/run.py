"""One MLflow run per experiment, written to the store of this repository.

A run is found by a digest of its parameters and inputs (tag `pipeline.train_key`), not by a random id passed between
stages: so a fresh clone can evaluate after `dvc pull`, and a resumed training continues its own run. Writing twice
changes nothing. If `MLFLOW_TRACKING_URI` names a server, a child process copies the run there.
"""

from __future__ import annotations

import functools
import json
import math
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from pipeline.errors import InputError
from pipeline.tracking import naming as tag
from pipeline.tracking import store
from pipeline.tracking.follower import Follower
from pipeline.tracking.model import describe_version, keep_model, pack_model
from pipeline.tracking.previous import difference, previous_run
from pipeline.tracking.runs import search

F = TypeVar("F", bound=Callable[..., Any])


def _unless_failed(instead: Any = None) -> Callable[[F], F]:
    """Make a method return `instead` without doing anything if the store fails or has failed before.

    An error of the store must not stop an experiment: it gives one warning.
    """

    def guarded(method: F) -> F:
        @functools.wraps(method)
        def attempt(self: Tracker, *arguments: Any, **named: Any) -> Any:
            try:
                return instead if self.failed else method(self, *arguments, **named)
            except InputError:
                raise
            except Exception as error:
                self.failed, uri = True, store.store_uri()
                self._warn_once(
                    f"MLflow's store {store.without_password(uri)} failed ({store.reason(error, uri)}): the record of "
                    "this run is not complete. Its metrics are in train/history.csv and metrics.json"
                )
                return instead

        return cast("F", attempt)

    return guarded


class Tracker:
    """Writes one MLflow run. In a `with`, an exception ends the run: KILLED for Ctrl-C and SIGTERM, else FAILED."""

    failed = False
    """Whether the store has failed, so that nothing more is written."""
    run_id = ""
    """The run's id; empty before `begin`."""
    _trains = _warned = False
    _follower: Follower | None = None
    _monitor: Any = None

    @_unless_failed()
    def __init__(self, experiment: str, *, silent: bool = False) -> None:
        """Open the store and the experiment, and create them if missing; `silent`: do nothing.

        Raises:
            InputError: when the experiment was deleted in MLflow.
        """
        self.failed = silent
        self._metrics: list[Metric] = []  # not yet written
        self._known: dict[str, set[int]] = {}  # steps that the run has, by metric
        if not silent:
            self._client = store.open_client(store.store_uri())
            self._experiment = store.experiment_id(self._client, experiment)
            self._follower = Follower() if store.server_uri() else None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        elif self._follower is not None:  # nothing to write
            self._follower.end()

    @_unless_failed()
    def begin(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], *, restart: bool = False
    ) -> None:
        """Continue the unfinished run of `key`, or start one.

        `restart`: the training starts at its first step, so an unfinished run that has metrics is replaced.
        """
        run, replaced = self._newest(tag.TRAIN_KEY, key), ""
        # a finished run without evaluation: killed after its work, before DVC recorded the stage
        if run is not None and run.info.status == "FINISHED" and tag.EVALUATED in run.data.metrics:
            run = None
        if run is not None and restart and run.data.metrics:
            replaced = f"{run.data.tags.get(tag.REPLACES, '')} {run.info.run_id}".strip()
            self._client.delete_run(run.info.run_id)
            run = None
        self._trains = True
        self._write_to(run, name, params, {**tags, tag.TRAIN_KEY: key, tag.REPLACES: replaced})
        self._client.update_run(self.run_id, status="RUNNING")

    @_unless_failed()
    def watch_machine(self, interval: float = 10) -> None:
        """Log the machine's load every `interval` seconds, as metrics `system/…`, until `finish`."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        uri, resumed = store.store_uri(), bool(self._client.get_run(self.run_id).data.metrics)
        self._monitor = SystemMetricsMonitor(self.run_id, interval, resume_logging=resumed, tracking_uri=uri)
        self._monitor.start()

    @_unless_failed(True)
    def continue_for_evaluation(
        self, key: str, evaluate_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> bool:
        """Continue the run of the training (after `dvc pull`, start one); False if it already has this evaluation.

        `name` and `tags` replace the training's, which could not know what would be evaluated. A second evaluation with
        other settings or code becomes a child run, so that its metrics stay separate.
        """
        run, called, own = self._newest(tag.TRAIN_KEY, key), name, {**tags, tag.TRAIN_KEY: key}
        if run is not None and run.data.tags.get(tag.EVALUATE_KEY, evaluate_key) != evaluate_key:
            data = {name: value for name, value in run.data.tags.items() if name.startswith("data.")}
            called, own = f"{name} (evaluated again)", {**data, **tags, tag.PARENT: run.info.run_id}
            run = self._newest(tag.EVALUATE_KEY, evaluate_key, f" and tags.`{tag.PARENT}` = '{run.info.run_id}'")
        if run is not None and tag.EVALUATED in run.data.metrics and run.data.tags.get(tag.WRITTEN) != tag.WRITING:
            self.run_id = run.info.run_id
            return False
        self._write_to(run, called, params, {**own, tag.NAME: called, tag.EVALUATE_KEY: evaluate_key})
        return True

    @_unless_failed(False)
    def find_evaluation(self, evaluate_key: str) -> bool:
        """Use the run with this evaluation; False if the store has none (after `dvc pull`)."""
        run = self._newest(tag.EVALUATE_KEY, evaluate_key)
        if run is not None:
            self._write_to(run, "", {}, {})
        return run is not None

    @_unless_failed(("", ""))
    def outcome(self) -> tuple[str, str]:
        """This run's name, and how it differs from the one before it; "" if there is none."""
        run = self._client.get_run(self.run_id)
        before = previous_run(self._client, run)
        told = "" if before is None or tag.EVALUATED not in run.data.metrics else difference(run, before)
        return str(run.info.run_name), told

    @_unless_failed()
    def log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics: every finite number in a row with `epoch`, `step` and, if known, `time` (ms since 1970).

        Steps of a metric that the run already has do not change.
        """
        now = int(time.time() * 1000)
        self._metrics += [
            Metric(name, float(value), row.get("time", now), row["step"])
            for row in rows
            for name, value in row.items()
            if name not in ("epoch", "step", "time") and math.isfinite(value)
        ]
        self._flush()

    @_unless_failed()
    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a copy of a file in the run."""
        self._client.log_artifact(self.run_id, str(path), folder)

    @_unless_failed()
    def describe(self, text: str) -> None:
        """Set the run's description, in Markdown."""
        self._client.set_tag(self.run_id, "mlflow.note.content", text)

    @_unless_failed()
    def data_set(
        self, name: str, context: str, digest: str, source: Mapping[str, Any], rows: Mapping[str, int]
    ) -> None:
        """Log the run's dataset: `context` is training, validation or test; 16 digits of `digest` are shown."""
        data = Dataset(name, digest[:16], "local", json.dumps(dict(source)), profile=json.dumps(dict(rows)))
        read = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self._client.log_inputs(self.run_id, datasets=[read])

    @_unless_failed()
    def keep_model(
        self,
        name: str,
        loader: str,
        folders: Mapping[str, Path],
        example: Mapping[str, Any],
        step: int,
        description: str = "",
        rsum: float | None = None,
        data: str = "",
    ) -> None:
        """Log the run's model and register it as `name`; see `pack_model`, `keep_model` and `describe_version`."""
        run = self._client.get_run(self.run_id)
        if tag.MODEL not in run.data.tags:
            with tempfile.TemporaryDirectory() as made:
                packed = functools.partial(pack_model, Path(made), loader, folders, example)
                version = keep_model(self._client, run, name, step, packed)
            describe_version(self._client, name, version, description, rsum, data)
            self._client.set_tag(self.run_id, tag.MODEL, version)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run (FINISHED, FAILED or KILLED), then wait a few seconds for its copy on a server."""
        if self._monitor is not None:
            self._monitor.finish()
        if self.run_id:
            self.failed = False  # the store may work again
            self._end(status)
        follower, self._follower = self._follower, None
        problem = follower.end() if follower else None
        if problem and self.run_id:
            self._warn_once(
                f"MLflow at {store.without_password(store.read_uri())} has not got all of this run ({problem}). "
                "Nothing is lost: the next stage copies it, or `python -m commands.sync`"
            )

    @_unless_failed()
    def _end(self, status: str) -> None:
        self._flush()
        # a failed evaluation ends a run that it started, and does not change the run of a finished training; a later
        # success does not move its end
        before = self._client.get_run(self.run_id).info.status
        if self._trains or before == "RUNNING" or (status == "FINISHED" and before != "FINISHED"):
            self._client.set_terminated(self.run_id, status)
        self._client.set_tag(self.run_id, tag.WRITTEN, secrets.token_hex(8))

    def _flush(self) -> None:
        store.log_new(self._client, self.run_id, self._metrics, self._known)
        self._metrics = []

    def _write_to(self, run: Run | None, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Continue `run`, or start one; existing parameters do not change."""
        # all tags at once: after a kill, the run can be found
        marks = {tag.WRITTEN: tag.WRITING, tag.COPIED: store.without_password(store.server_uri() or "")}
        tags = {key: value for key, value in {**tags, **marks}.items() if value}
        run = run or self._client.create_run(self._experiment, run_name=name, tags=tags)
        self.run_id = run.info.run_id
        if "seed" in params:
            params = {**params, tag.SEED_NAME: f"seed {params['seed']}"}
        missing = {key: value for key, value in params.items() if key not in run.data.params}
        written = [Param(key, "null" if value is None else str(value)) for key, value in missing.items()]
        self._client.log_batch(self.run_id, params=written, tags=[RunTag(*own) for own in tags.items()])
        if self._follower:
            self._follower.start(self.run_id)

    def _newest(self, name: str, value: str, condition: str = "") -> Run | None:
        return next(search(self._client, [self._experiment], f"tags.`{name}` = '{value}'{condition}"), None)

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            print(f"warning: {text}", file=sys.stderr)
        self._warned = True
