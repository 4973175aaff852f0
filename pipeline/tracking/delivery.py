"""Entries of a journal, done to an MLflow run: an entry that is done twice changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import main_root
from pipeline.tracking.entries import Entry
from pipeline.tracking.patience import Patience, bounded
from pipeline.tracking.store import PATIENCE, store_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

TRAIN_KEY = "pipeline.train_key"
EVALUATE_KEY = "pipeline.evaluate_key"
TOKEN = "pipeline.token"  # noqa: S105  (names the journal that a run was begun by)
PLACE = "pipeline.place"  # which repository on which disk began it
JUDGED_BY = "pipeline.judged_by"  # the token of the evaluation whose figures a run holds
MODEL = "pipeline.model"  # the version of the model that was kept
EVALUATED = "test/rsum"  # a run that has been evaluated has this; all of an evaluation's figures arrive at once
BATCH = 1000  # metrics a request, MLflow's limit


class Delivery:
    """An open store, one experiment in it, and the run that entries are about once one of them has begun it."""

    def __init__(
        self, experiment: str, uri: str | None = None, *, live: bool = True, patience: Patience | None = None
    ) -> None:
        """Open a store and the experiment, creating both where they are missing.

        Args:
            experiment: its name.
            uri: where the store is; None: as the environment says.
            live: whether the stage is running.
            patience: how long requests to a server are waited for; None: as the environment says, each by itself.

        Raises:
            Exception: whatever the store throws; so do the methods.
        """
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from filelock import FileLock
        from mlflow import MlflowClient

        self.live = live
        self.run_id: str | None = None
        self.already_there = False
        """Whether there is nothing to add: the evaluation is in the run already, by another journal's doing, or a
        report's run is not in this store."""
        self._begun_by = ""
        self._uri = uri or store_uri()
        # a file here is slow only when the whole machine is
        here = self._uri.startswith(("sqlite", "file"))
        # Two processes that create the database at once crash in its migrations.
        with FileLock(main_root() / ".mlflow.lock") if here else nullcontext():
            client = MlflowClient(tracking_uri=self._uri)
            self.client = client if here or patience is None else bounded(client, patience)
            self.experiment_id = self._experiment(experiment)

    def do(self, entry: Entry, files: Path) -> None:
        """Do what `entry` says to the run; paths in it lie below `files`."""
        beginnings = ("training", "evaluation", "report")
        if entry["do"] in beginnings:
            self._begun_by = entry["do"]
        elif self.already_there:
            return
        match entry["do"]:
            case "training":
                self._begin_training(entry)
            case "evaluation":
                self._begin_evaluation(entry)
            case "report":
                self._begin_report(entry)
            case "metrics":
                self._metrics(entry["points"])
            case "artifact":
                self.client.log_artifact(self._run, str(files / entry["path"]), entry["folder"])
            case "describe":
                self.client.set_tag(self._run, "mlflow.note.content", entry["text"])
            case "data set":
                self._data_set(entry)
            case "model":
                self._model(entry, files)
            case "finish":
                self._finish(entry)
            case unknown:
                raise ValueError(f"a journal's entry says {unknown!r}, which this version does not know")

    def has_begun(self, first: Entry) -> bool:
        """Whether the journal that begins with `first` has a run already."""
        return self._find(TOKEN if first["do"] == "training" else JUDGED_BY, first["token"]) is not None

    def tag_experiment(self, tags: Mapping[str, str]) -> str:
        """Set tags of the experiment; its id."""
        for name, value in tags.items():
            self.client.set_experiment_tag(self.experiment_id, name, value)
        return self.experiment_id

    @property
    def _run(self) -> str:
        if self.run_id is None:
            raise RuntimeError("no run was begun")
        return self.run_id

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            # The default would be the working directory, which a queued experiment loses.
            place = (main_root() / "mlartifacts").as_uri() if self._uri.startswith("sqlite") else None
            try:
                return self.client.create_experiment(name, artifact_location=place)
            except MlflowException:  # another machine was faster: a lock file reaches only this one
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _begin_training(self, entry: Entry) -> None:
        """Go on in the run of this journal, or in what an earlier start left of the same training; else begin one."""
        self._delete_surplus(TOKEN, entry["token"])
        run = self._find(TOKEN, entry["token"])
        if run is None:
            run = self._left_by_an_earlier_start(entry)
        if run is None:
            self.run_id = self._create(entry, {TRAIN_KEY: entry["key"], TOKEN: entry["token"], PLACE: entry["place"]})
            return
        self.run_id = run.info.run_id
        self.client.set_tag(self._run, TOKEN, entry["token"])
        self._log_params(entry, run.data.params)  # a kill may have come before them
        if self.live:
            self.client.update_run(self._run, status="RUNNING")

    def _left_by_an_earlier_start(self, entry: Entry) -> Run | None:
        unfinished = self._find(TRAIN_KEY, entry["key"])
        if unfinished is not None and (
            unfinished.data.tags.get(PLACE) != entry["place"]  # another machine's
            # finished and not evaluated: killed when all was done, before DVC knew
            or (unfinished.info.status == "FINISHED" and EVALUATED in unfinished.data.metrics)
        ):
            unfinished = None
        for run in (self._find(TOKEN, entry["replaces"]) if entry["replaces"] else None, unfinished):
            if run is None:
                continue
            if not (entry["afresh"] and run.data.metrics):
                return run
            # its checkpoint is gone: figures of steps that are now taken again would stand there twice
            self.client.delete_run(run.info.run_id)
        return None

    def _begin_evaluation(self, entry: Entry) -> None:
        """Find the run that trained (or make one, after a `dvc pull`); a second evaluation becomes a child of it."""
        from mlflow.entities import RunTag

        key, evaluate_key, token = entry["key"], entry["evaluate_key"], entry["token"]
        judged = {EVALUATE_KEY: evaluate_key, JUDGED_BY: token}
        self._delete_surplus(JUDGED_BY, token)
        run = self._find(TRAIN_KEY, key)
        if run is None:
            self._create(entry, {TRAIN_KEY: key, **judged})
            return
        if run.data.tags.get(EVALUATE_KEY, evaluate_key) != evaluate_key:
            parent = run.info.run_id
            run = self._find(EVALUATE_KEY, evaluate_key, parent=parent)
            if run is None:
                named = {**entry, "name": f"{entry['name']} (evaluated again)"}
                # all tags at once: a kill after this finds it again
                self._create(named, {"mlflow.parentRunId": parent, **judged})
                return
        self.run_id = run.info.run_id
        self.already_there = EVALUATED in run.data.metrics and run.data.tags.get(JUDGED_BY) != token
        if not self.already_there:
            self.client.log_batch(self._run, tags=[RunTag(tag, value) for tag, value in judged.items()])
            if not run.data.params:  # a kill came before them
                self._log_params(entry, {})

    def _begin_report(self, entry: Entry) -> None:
        """Find the run that was evaluated: a report belongs to one, and makes none."""
        run = self._find(EVALUATE_KEY, entry["evaluate_key"])
        self.already_there = run is None
        self.run_id = None if run is None else run.info.run_id

    def _metrics(self, points: list[list[Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, time, step) for name, value, step, time in points]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self._run, metrics=metrics[start : start + BATCH])

    def _data_set(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source, rows = json.dumps(entry["source"]), json.dumps(entry["rows"])
        data = Dataset(entry["name"], entry["digest"][:16], "local", source, profile=rows)
        self.client.log_inputs(self._run, [DatasetInput(data, [InputTag("mlflow.data.context", entry["context"])])])

    def _model(self, entry: Entry, files: Path) -> None:
        from pipeline.tracking.model import keep_model

        if MODEL in self.client.get_run(self._run).data.tags:
            return
        folders = {name: files / path for name, path in entry["folders"].items()}
        name, loader, example, step = (entry[part] for part in ("name", "loader", "example", "step"))
        version = keep_model(self.client, self.experiment_id, self._run, name, loader, folders, example, step)
        self.client.set_tag(self._run, MODEL, version)

    def _finish(self, entry: Entry) -> None:
        info = self.client.get_run(self._run).info
        # a failed evaluation is no failed training: in that one's run it ends nothing
        if entry["status"] != "FINISHED" and self._begun_by != "training" and info.status != "RUNNING":
            return
        if info.status != entry["status"] or (info.end_time or 0) < entry["time"]:
            self.client.set_terminated(self._run, entry["status"], entry["time"])

    def mark_killed(self) -> None:
        """Say so of a run whose stage is neither running nor told its end."""
        if self.client.get_run(self._run).info.status == "RUNNING":
            self.client.set_terminated(self._run, "KILLED")

    def _find(self, tag: str, value: str, parent: str | None = None) -> Run | None:
        """The newest run with this tag."""
        condition = f"tags.`{tag}` = '{value}'"
        if parent is not None:
            condition += f" and tags.`mlflow.parentRunId` = '{parent}'"
        found = self.client.search_runs(
            [self.experiment_id], condition, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return found[0] if found else None

    def _delete_surplus(self, tag: str, token: str) -> None:
        """Leave one run with this token: a request that was given up and done late made another one of it.

        The one that was told most stays, and so does one that an evaluation found and did not make.
        """
        if self.live:
            return
        runs = self.client.search_runs([self.experiment_id], f"tags.`{tag}` = '{token}'")
        told = {run.info.run_id: (TOKEN in run.data.tags, len(run.data.metrics), len(run.data.params)) for run in runs}
        kept = max(told, key=lambda run_id: told[run_id], default=None)
        for run in runs:
            if run.info.run_id != kept and (tag == TOKEN or TOKEN not in run.data.tags):
                self.client.delete_run(run.info.run_id)

    def _create(self, entry: Entry, tags: dict[str, str]) -> str:
        run = self.client.create_run(
            self.experiment_id, start_time=entry["time"], run_name=entry["name"], tags={**entry["tags"], **tags}
        )
        self.run_id = str(run.info.run_id)
        self._log_params(entry, {})
        return self.run_id

    def _log_params(self, entry: Entry, there: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = {name: value for name, value in entry["params"].items() if name not in there}
        logged = [Param(name, "null" if value is None else str(value)) for name, value in params.items()]
        self.client.log_batch(self._run, params=logged)
