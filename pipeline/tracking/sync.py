"""Copy runs from the store of this repository to a server; copying twice changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock
from mlflow.entities import Param, Run, RunTag

from pipeline.errors import InputError
from pipeline.files import main_root, sha256
from pipeline.tracking import naming as tag
from pipeline.tracking import store
from pipeline.tracking.model import DATA, RSUM, describe_version, keep_model
from pipeline.tracking.runs import search


class Copier:
    """Copies runs to the server in `MLFLOW_TRACKING_URI`."""

    def __init__(self) -> None:
        """Open store and server, without a request to the server.

        Raises:
            InputError: when there is no server.
        """
        self.uri, here = store.server_uri() or "", store.store_uri()
        self.name = store.without_password(self.uri)
        if not self.uri:
            raise InputError(f"{store.NAMED} names no server (http://…): runs are in {store.without_password(here)}")
        self._local, self._server = store.open_client(here), store.open_client(self.uri)

    def pending(self, *, every: bool = False) -> Iterator[Run]:
        """Runs whose copy may be incomplete, oldest first: those whose stages had this server, or `every` run."""
        condition = "" if every else f"tags.`{tag.COPIED}` LIKE '%{self.name}'"
        experiments = [found.experiment_id for found in self._local.search_experiments()]
        for run in search(self._local, experiments, condition, "attributes.start_time ASC"):
            ours = {tag.TRAIN_KEY, tag.EVALUATE_KEY} & run.data.tags.keys()
            if ours and run.data.tags.get(tag.COPIED) != self._complete(run):
                yield run

    def copy(self, run_id: str, wait: float = -1) -> bool:
        """Copy what the server lacks of a run; returns whether the copy is complete (no stage is writing the run).

        Args:
            run_id: in the store.
            wait: seconds to wait for another process that copies it; -1: without limit.

        Raises:
            filelock.Timeout: when the other process takes longer.
            Exception: any error of the server or the store.
        """
        if parent := self._local.get_run(run_id).data.tags.get(tag.PARENT):
            self.copy(parent, wait)
        lock = main_root() / ".tracking" / f"{run_id[:2]}.lock"  # not one lock file per run
        lock.parent.mkdir(exist_ok=True)
        with FileLock(lock, wait):
            run = self._local.get_run(run_id)
            there = self._counterpart(run)
            self._metrics(run, there)
            self._artifacts(run, there)
            self._model(run, there)
            status, end = run.info.status, run.info.end_time
            if status == "RUNNING" != there.info.status:
                self._server.update_run(there.info.run_id, status=status)
            elif (status, end) != (there.info.status, there.info.end_time):
                self._server.set_terminated(there.info.run_id, status, end)
            if complete := self._complete(run):
                self._local.set_tag(run_id, tag.COPIED, complete)
        return bool(complete)

    def _complete(self, run: Run) -> str:
        """The value of `COPIED` for a complete copy; empty while a stage writes to the run."""
        written = run.data.tags.get(tag.WRITTEN, "")
        return "" if written == tag.WRITING else f"{written} {self.name}"

    def _counterpart(self, run: Run) -> Run:
        """The run's copy, created if missing, with all parameters, tags and datasets."""
        experiment = store.experiment_id(self._server, self._local.get_experiment(run.info.experiment_id).name)

        def copies(run_id: str) -> list[Run]:
            return list(search(self._server, [experiment], f"tags.`{tag.TOKEN}` = '{run_id}'"))

        own = (tag.WRITTEN, tag.COPIED, tag.MODEL, tag.REPLACES)
        tags = {name: value for name, value in run.data.tags.items() if name not in own}
        tags[tag.TOKEN] = run.info.run_id
        if parent := tags.get(tag.PARENT):
            tags[tag.PARENT] = copies(parent)[0].info.run_id
        if not copies(run.info.run_id):
            self._server.create_run(experiment, run.info.start_time, tags, run.info.run_name)
        # several copies: a request that timed out had still been executed
        there, *surplus = copies(run.info.run_id)
        replaced = [copy for run_id in run.data.tags.get(tag.REPLACES, "").split() for copy in copies(run_id)]
        for copy in [*surplus, *replaced]:
            self._server.delete_run(copy.info.run_id)
        params = [Param(*param) for param in run.data.params.items() - there.data.params.items()]
        new = [RunTag(*missing) for missing in tags.items() - there.data.tags.items()]
        self._server.log_batch(there.info.run_id, params=params, tags=new)
        if run.inputs and run.inputs.dataset_inputs:
            self._server.log_inputs(there.info.run_id, run.inputs.dataset_inputs)
        return there

    def _metrics(self, run: Run, there: Run) -> None:
        # both lists hold the last point of each metric; a metric's points are sent in the order of steps
        last = {metric.key: (metric.step, metric.value) for metric in there.data._metric_objs}
        changed = [m.key for m in run.data._metric_objs if last.get(m.key) != (m.step, m.value)]
        histories = (self._local.get_metric_history(run.info.run_id, key) for key in changed)
        points = [point for history in histories for point in sorted(history, key=lambda point: point.step)]
        store.log_new(self._server, there.info.run_id, points, {key: set() for key in changed if key not in last})

    def _artifacts(self, run: Run, there: Run) -> None:
        folder, sent = _path(run.info.artifact_uri), json.loads(there.data.tags.get(tag.FILES, "{}"))
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        digests = {name: sha256(path)[:16] for name, path in files.items()}
        for name in digests.keys() - {name for name, digest in sent.items() if digests.get(name) == digest}:
            self._server.log_artifact(there.info.run_id, str(files[name]), name.rpartition("/")[0] or None)
        if digests != sent:
            self._server.set_tag(there.info.run_id, tag.FILES, json.dumps(digests))

    def _model(self, run: Run, there: Run) -> None:
        """Also log the run's model on the server, under the same name, with its own version."""
        if tag.MODEL in run.data.tags and tag.MODEL not in there.data.tags and run.outputs:
            kept = run.outputs.model_outputs[-1]
            model = self._local.get_logged_model(kept.model_id)
            version = keep_model(self._server, there, model.name, kept.step, lambda: _path(model.artifact_location))
            own = self._local.search_model_versions(f"run_id = '{run.info.run_id}'")
            if own and RSUM in own[0].tags:
                rsum, data = float(own[0].tags[RSUM]), own[0].tags.get(DATA, "")
                describe_version(self._server, model.name, version, own[0].description or "", rsum, data)
            self._server.set_tag(there.info.run_id, tag.MODEL, version)


def _path(uri: str) -> Path:
    """The folder of a local artifact URI."""
    return Path(url2pathname(urlsplit(uri).path))
