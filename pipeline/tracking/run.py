"""One MLflow run an experiment, found again by what it was computed from.

A run is found by a digest of its parameters and inputs (tag `pipeline.train_key`), never by a random id between the
stages: so a fresh clone after `dvc pull` can evaluate, and a resumed training goes on in the run that it began.
Tracking never stops a training: what the store does not take at once stays in a journal, is sent when the stage ends,
and if the store has not come back by then, by `python -m stages.sync`.
"""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import InputError
from pipeline.files import digest_of
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.journal import Entry, Journal, place
from pipeline.tracking.store import LONGER_PATIENCE, store_uri

Answer = TypeVar("Answer")

SYNC = "python -m stages.sync"
MOST_WAITING = 2.0  # seconds that sending figures may hold a training up, and
SHARE_OF_TIME = 0.05  # of the time it has run: beyond both, the rest is sent when it ends


@dataclass(frozen=True)
class Point:
    """One figure of one moment; sending the same one twice changes nothing."""

    name: str
    value: float
    step: int
    time: int
    """Milliseconds since 1970."""


class Tracker:
    """Writes one MLflow run: into a journal, and into the store for as long as that answers."""

    def __init__(self, experiment: str, *, silent: bool = False) -> None:
        """Open the store and the experiment, creating both where they are missing; `silent`: do nothing at all."""
        self.failed = silent
        """Whether figures no longer go to the store as they come."""
        self.began = 0
        """When this run's stage was first started, in milliseconds since 1970."""
        self._experiment = experiment
        self._silent = silent
        self._journal: Journal | None = None
        self._delivery: Delivery | None = None
        self._delivered = False
        self._opened, self._waited = time.monotonic(), 0.0

        def open_store() -> None:
            self._delivery = Delivery(experiment)

        self._attempt(open_store)

    @property
    def run_id(self) -> str | None:
        """The run's id; None before it is begun, and while the store is out of reach."""
        return None if self._delivery is None else self._delivery.run_id

    def begin(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], *, afresh: bool = False
    ) -> None:
        """Go on in the unfinished run of `key`, or begin one.

        Waits while another process trains the same `key`. `afresh`: nothing of an earlier start is gone on with, and
        a run that was left half told is replaced.
        """

        def entry(earlier: Entry | None) -> Entry:
            told = {"do": "training", "key": key, "name": name, "params": dict(params), "tags": dict(tags)}
            if earlier is not None and not afresh:
                return {**earlier, **told}
            left = None if earlier is None else earlier["token"]
            return {**told, **self._signed(), "place": place(), "replaces": left, "afresh": afresh}

        self._begin("train", key, entry)

    def continue_for_evaluation(
        self, key: str, evaluate_key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> bool:
        """Find the run that trained (or make one, after a `dvc pull`); False if this evaluation is already in it.

        A second evaluation with other settings becomes a child run: its figures must not mix with the first one's.
        While the store is out of reach nobody knows: then it is told, and left out when it is sent.
        """
        self._attempt(lambda: send(Journal.of("train", key)))  # first, or the run would be made a second time

        def entry(earlier: Entry | None) -> Entry:
            told = {"do": "evaluation", "key": key, "evaluate_key": evaluate_key}
            return {**(earlier or self._signed()), **told, "name": name, "params": dict(params), "tags": dict(tags)}

        self._begin("evaluate", digest_of(key, evaluate_key), entry)
        if not self.failed and self._delivery is not None and self._delivery.already_there:
            self._delivered = True
            self.close()
            return False
        return not self._silent

    def find_evaluation(self, evaluate_key: str) -> bool:
        """Take the run that holds this evaluation, to add to it; False where the store has none (a `dvc pull`)."""

        def entry(earlier: Entry | None) -> Entry:
            return {**(earlier or self._signed()), "do": "report", "evaluate_key": evaluate_key}

        self._begin("audit", evaluate_key, entry)
        if not self.failed and self._delivery is not None and self._delivery.already_there:
            self._delivered = True
            self.close()
            return False
        return not self._silent

    def log(self, points: Iterable[Point]) -> None:
        """Send figures; those that were sent before stay as they are."""
        told = [[point.name, point.value, point.step, point.time] for point in points if math.isfinite(point.value)]
        started = time.monotonic()
        self._tell({"do": "metrics", "points": told})
        now = time.monotonic()
        self._waited += now - started
        far = store_uri().startswith("http")  # a file here is slow only when the whole machine is
        if far and not self.failed and self._waited > max(MOST_WAITING, SHARE_OF_TIME * (now - self._opened)):
            self._give_up(f"it took {self._waited:.1f} s to answer")

    def log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Send a training's records: every figure beside `epoch`, `step` and `time`."""
        not_figures = ("epoch", "step", "time")
        self.log(
            Point(name, float(value), row["step"], row["time"])
            for row in rows
            for name, value in row.items()
            if name not in not_figures
        )

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file in the run."""
        self._tell_with_files(lambda found: {"do": "artifact", "path": found["file"], "folder": folder}, {"file": path})

    def describe(self, text: str) -> None:
        """Put Markdown above the run's page."""
        self._tell({"do": "describe", "text": text})

    def data_set(
        self, name: str, context: str, digest: str, source: Mapping[str, Any], rows: Mapping[str, int]
    ) -> None:
        """Say what the run read: `context` is training, validation or test; the first 16 digits of `digest` show."""
        said = {"name": name, "context": context, "digest": digest, "source": dict(source), "rows": dict(rows)}
        self._tell({"do": "data set", **said})

    def keep_model(
        self, name: str, loader: str, folders: Mapping[str, Path], example: Mapping[str, Any], step: int
    ) -> None:
        """Keep the run's model and register it, as `pipeline.tracking.model.keep_model` says."""
        said = {"do": "model", "name": name, "loader": loader, "example": dict(example), "step": step}
        self._tell_with_files(lambda found: {**said, "folders": found}, folders)

    def tag_experiment(self, tags: Mapping[str, str]) -> str | None:
        """Set tags of the experiment; its id, or None once the store has failed."""
        return self._attempt(lambda: self._open.tag_experiment(tags))

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED. What the store did not take before is sent now, if it is back."""
        self._tell({"do": "finish", "status": status, "time": _now()})
        if self._journal is None:
            return
        if not self.failed:
            self._delivered = status == "FINISHED"
            return
        try:
            _replay(self._journal)
        except Exception as error:  # as in _attempt
            print(f"MLflow did not come back ({_first_line(error)}). To send the record: {SYNC}", file=sys.stderr)
        else:
            self._delivered = status == "FINISHED"
            print("MLflow is back: the whole record was sent", file=sys.stderr)

    def close(self) -> None:
        """Let the journal go once the stage has nothing left to lose: delivered, it is removed."""
        if self._journal is not None:
            if self._delivered:
                self._journal.remove()
            self._journal.release()
            self._journal = None

    @property
    def _open(self) -> Delivery:
        if self._delivery is None:
            raise RuntimeError("the tracking store is not open")
        return self._delivery

    @staticmethod
    def _signed() -> Entry:
        return {"token": secrets.token_hex(16), "time": _now()}

    def _begin(self, stage: str, key: str, entry: Callable[[Entry | None], Entry]) -> None:
        if self._silent:
            return
        try:
            self._journal = Journal.of(stage, key)
            self._journal.hold()
            try:
                earlier = self._journal.entries()[:1]
            except InputError:
                earlier = []
            first = {**entry(earlier[0] if earlier else None), "experiment": self._experiment}
            self._journal.restart(first)
        except OSError as error:
            self._without_journal(error)
            return
        self.began = int(first["time"])
        self._attempt(lambda: self._open.do(first, Path()))

    def _tell(self, entry: Entry) -> None:
        self._note(entry)
        if self.run_id is not None:
            self._attempt(lambda: self._open.do(entry, Path()))

    def _tell_with_files(self, entry: Callable[[dict[str, str]], Entry], paths: Mapping[str, Path]) -> None:
        """Files go into the journal only if the store does not take them: they may be large."""
        if self.run_id is not None and not self.failed:
            self._attempt(lambda: self._open.do(entry({name: str(path) for name, path in paths.items()}), Path()))
        if self.failed and self._journal is not None:
            try:
                kept = {name: self._journal.keep(path) for name, path in paths.items()}
            except OSError as error:
                self._without_journal(error)
            else:
                self._note(entry(kept))

    def _note(self, entry: Entry) -> None:
        if self._journal is not None:
            try:
                self._journal.add(entry)
            except OSError as error:
                self._without_journal(error)

    def _without_journal(self, error: OSError) -> None:
        print(
            f"warning: MLflow: the record cannot be kept ({error}); going on without it. "
            "The figures are in train/history.csv and metrics.json",
            file=sys.stderr,
        )
        if self._journal is not None:
            self._journal.release()
        self._journal = None

    def _attempt(self, action: Callable[[], Answer]) -> Answer | None:
        if self.failed:
            return None
        try:
            return action()
        except Exception as error:  # whatever a store throws, an experiment must not be lost to its record
            self._give_up(_first_line(error))
            return None

    def _give_up(self, reason: str) -> None:
        self.failed = True
        print(
            f"warning: MLflow at {store_uri()} failed ({reason}); going on. The record is kept in .tracking "
            f"and sent when the stage ends, or later by `{SYNC}`",
            file=sys.stderr,
        )


def send(journal: Journal) -> str:
    """Send what a journal holds, and forget it once its run is finished there; sending twice changes nothing.

    Returns:
        What became of it, in words: "sent", "nothing to send", "its stage is running: left alone", or "sent so far …".

    Raises:
        Exception: whatever the store throws; InputError when the journal cannot be read.
    """
    if not journal.path.exists():
        return "nothing to send"
    if not journal.hold(wait=False):
        return "its stage is running: left alone"
    try:
        finished = _replay(journal)
        if finished or journal.stage == "train":  # a training that is started again finds its run without it
            journal.remove()
        return "sent" if finished else "sent so far; its stage was killed: run the same command again"
    finally:
        journal.release()


def send_patiently(journal: Journal) -> str:
    """As `send`, for a person who waits.

    Raises:
        InputError: when the store does not take it; what was sent stays sent, and the journal stays.
    """
    os.environ.update(LONGER_PATIENCE)
    try:
        return send(journal)
    except InputError:
        raise
    except Exception as error:  # whatever a store throws
        raise InputError(
            f"{journal.path}: MLflow at {store_uri()} did not take it ({_first_line(error)}); "
            "nothing is lost, try again"
        ) from error


def _replay(journal: Journal) -> bool:
    """Do all entries to the run; whether it ended."""
    entries = journal.entries()
    if not entries:
        return True
    delivery = Delivery(entries[0]["experiment"], live=False)
    for entry in entries:
        delivery.do(entry, journal.files)
    if entries[-1]["do"] != "finish":
        delivery.mark_killed()
        return False
    return True


def _now() -> int:
    return int(time.time() * 1000)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
