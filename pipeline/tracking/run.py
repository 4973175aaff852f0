"""One MLflow run an experiment, written to the store of this repository.

A run is found by a digest of its parameters and inputs (tag `pipeline.train_key`), never by a random id between the
stages: so a fresh clone after `dvc pull` can evaluate, and a resumed training continues the run that it began. Writing
twice changes nothing. Where `MLFLOW_TRACKING_URI` names a server, a child process copies the run there.
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
from pipeline.tracking.model import keep_model, pack_model
from pipeline.tracking.runs import search

F = TypeVar("F", bound=Callable[..., Any])


def _unless_failed(instead: Any = None) -> Callable[[F], F]:
    """A method that does nothing, and returns `instead`, where the store fails or has failed before.

    Whatever a store throws, an experiment must not be lost to its record: it costs one warning.
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
    """Writes one MLflow run. In a `with`, an exception ends it: KILLED for Ctrl-C and SIGTERM, else FAILED."""

    failed = False
    """Whether nothing is written any more."""
    run_id = ""
    """The run's id; empty before it is begun."""
    _trains = _warned = False
    _follower: Follower | None = None

    @_unless_failed()
    def __init__(self, experiment: str, *, silent: bool = False) -> None:
        """Open the store and the experiment, creating both where they are missing; `silent`: do nothing at all.

        Raises:
            InputError: when the experiment was deleted in MLflow.
        """
        self.failed = silent
        self._metrics: list[Metric] = []  # not written yet
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
        elif self._follower is not None:  # there was nothing to write
            self._follower.end()

    @_unless_failed()
    def begin(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], *, restart: bool = False
    ) -> None:
        """Continue the unfinished run of `key`, or begin one.

        `restart`: the training starts at its first step, so an unfinished run that has metrics is replaced.
        """
        run, replaced = self._newest(tag.TRAIN_KEY, key), ""
        # one that finished and was not evaluated was killed when all was done, before DVC knew
        if run is not None and run.info.status == "FINISHED" and tag.EVALUATED in run.data.metrics:
            run = None
        if run is not None and restart and run.data.metrics:
            replaced = f"{run.data.tags.get(tag.REPLACES, '')} {run.info.run_id}".strip()
            self._client.delete_run(run.info.run_id)
            run = None
        self._trains = True
        self._write_to(run, name, params, {**tags, tag.TRAIN_KEY: key, tag.REPLACES: replaced})
        self._client.update_run(self.run_id, status="RUNNING")

    @_unless_failed(True)
    def continue_for_evaluation(
        self, key: str, evaluate_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> bool:
        """Continue the run that trained (or begin one, after a `dvc pull`); False if this evaluation is already in it.

        A second evaluation with other settings becomes a child run: its metrics must not mix with the first one's.
        """
        run, called, own = self._newest(tag.TRAIN_KEY, key), name, {**tags, tag.TRAIN_KEY: key}
        if run is not None and run.data.tags.get(tag.EVALUATE_KEY, evaluate_key) != evaluate_key:
            called, own = f"{name} (evaluated again)", {**tags, tag.PARENT: run.info.run_id}
            run = self._newest(tag.EVALUATE_KEY, evaluate_key, f" and tags.`{tag.PARENT}` = '{run.info.run_id}'")
        if run is not None and tag.EVALUATED in run.data.metrics and run.data.tags.get(tag.WRITTEN) != tag.WRITING:
            self.run_id = run.info.run_id
            return False
        self._write_to(run, called, params, {tag.EVALUATE_KEY: evaluate_key, **({} if run else own)})
        return True

    @_unless_failed(False)
    def find_evaluation(self, evaluate_key: str) -> bool:
        """Take the run that holds this evaluation, to add to it; False where the store has none (a `dvc pull`)."""
        run = self._newest(tag.EVALUATE_KEY, evaluate_key)
        if run is not None:
            self._write_to(run, "", {}, {})
        return run is not None

    @_unless_failed()
    def log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics: every finite number next to `epoch`, `step` and, if known, `time` (milliseconds since 1970).

        A step of a metric that the run has stays as it is.
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
        """Keep a copy of a file in the run."""
        self._client.log_artifact(self.run_id, str(path), folder)

    @_unless_failed()
    def describe(self, text: str) -> None:
        """Put Markdown above the run's page."""
        self._client.set_tag(self.run_id, "mlflow.note.content", text)

    @_unless_failed()
    def data_set(
        self, name: str, context: str, digest: str, source: Mapping[str, Any], rows: Mapping[str, int]
    ) -> None:
        """Note what the run read: `context` is training, validation or test; 16 digits of `digest` are shown."""
        data = Dataset(name, digest[:16], "local", json.dumps(dict(source)), profile=json.dumps(dict(rows)))
        read = DatasetInput(data, [InputTag("mlflow.data.context", context)])
        self._client.log_inputs(self.run_id, datasets=[read])

    @_unless_failed()
    def keep_model(
        self, name: str, loader: str, folders: Mapping[str, Path], example: Mapping[str, Any], step: int
    ) -> None:
        """Keep the run's model and register it as `name`; the rest as `pack_model` and `keep_model` have it."""
        run = self._client.get_run(self.run_id)
        if tag.MODEL not in run.data.tags:
            with tempfile.TemporaryDirectory() as made:
                packed = functools.partial(pack_model, Path(made), loader, folders, example)
                version = keep_model(self._client, run, name, step, packed)
            self._client.set_tag(self.run_id, tag.MODEL, version)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED; then wait a few seconds for its copy on a server."""
        if self.run_id:
            self.failed = False  # the store may be back
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
        # an evaluation that failed ends a run that it began, and leaves the run of a finished training as it was
        if status == "FINISHED" or self._trains or self._client.get_run(self.run_id).info.status == "RUNNING":
            self._client.set_terminated(self.run_id, status)
        self._client.set_tag(self.run_id, tag.WRITTEN, secrets.token_hex(8))

    def _flush(self) -> None:
        store.log_new(self._client, self.run_id, self._metrics, self._known)
        self._metrics = []

    def _write_to(self, run: Run | None, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Continue `run`, or begin one; parameters that it has stay as they are."""
        # all tags at once: a kill after this finds it again
        marks = {tag.WRITTEN: tag.WRITING, tag.COPIED: store.without_password(store.server_uri() or "")}
        tags = {key: value for key, value in {**tags, **marks}.items() if value}
        run = run or self._client.create_run(self._experiment, run_name=name, tags=tags)
        self.run_id = run.info.run_id
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
