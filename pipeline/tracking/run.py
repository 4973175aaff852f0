"""One MLflow run an experiment, found again by what it was computed from.

A run is found by a digest of its parameters and inputs (tag `pipeline.train_key`), never by a random id between the
stages: so a fresh clone after `dvc pull` can evaluate, and a resumed training goes on in the run that it began.
Tracking never stops a training: what the store does not take at once stays in a journal, is sent when the stage ends,
and if the store has not come back by then, by `python -m commands.sync`.
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

from pipeline.errors import InputError, printable
from pipeline.files import digest_of, sha256
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.entries import Entry
from pipeline.tracking.journal import Journal, place
from pipeline.tracking.patience import Patience
from pipeline.tracking.sending import SYNC, replay, send_before
from pipeline.tracking.store import named_store, reason, store_uri, without_password

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Point:
    """One figure of one moment; sending the same one twice changes nothing."""

    name: str
    value: float
    step: int
    time: int
    """Milliseconds since 1970."""


class UnsettledError(Exception):
    """A record must not be sent now: what it begins with may be done twice."""


class Tracker:
    """Writes one MLflow run: into a journal, and into the store for as long as that answers.

    In a `with`, an exception ends the run: KILLED for Ctrl-C and SIGTERM, else FAILED.
    """

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
        self._patience = Patience()

        def open_store() -> None:
            self._delivery = Delivery(experiment, patience=self._patience)

        self._attempt(open_store)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            self.close()

    @property
    def waited(self) -> float:
        """Seconds that the stage was held up by a server."""
        return self._patience.waited

    @property
    def run_id(self) -> str | None:
        """The run's id; None before it is begun, and while the store is out of reach."""
        return None if self._delivery is None else self._delivery.run_id

    def begin(
        self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], *, afresh: bool = False
    ) -> None:
        """Go on in the unfinished run of `key`, or begin one.

        `afresh`: nothing of an earlier start is gone on with, and a run that was left half told is replaced.
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
        self._tell({"do": "metrics", "points": told})

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
        self._delivered = False
        # without a run, and nothing failed: a signal came while it was begun
        if (self.failed or self.run_id is None) and not self._send_journal(self._journal):
            return
        self._delivered = status == "FINISHED"

    def _send_journal(self, journal: Journal) -> bool:
        self._patience.at_the_end()
        try:
            if self._patience.unsettled:
                raise UnsettledError("a request was not answered and may still be done: what is sent now may be double")
            replay(journal, self._patience)
        except Exception as error:  # as in _attempt
            print(
                f"MLflow did not come back ({reason(error, store_uri())}). To send the record: {_command()}",
                file=sys.stderr,
            )
            return False
        if self.failed:
            print("MLflow is back: the whole record was sent", file=sys.stderr)
        return True

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
            journal = self._journal = self._held(Journal.of(stage, key))
            first = {
                **entry(_first_of_the_latest(journal.same())),
                "experiment": self._experiment,
                "store": named_store(),
            }
            journal.restart(first)
        except OSError as error:
            self._without_journal(error)
            return
        self.began = int(first["time"])
        self._attempt(lambda: send_before(journal, first, self._open.has_begun, self._patience))
        self._attempt(lambda: self._open.do(first, Path()))

    def _held(self, journal: Journal) -> Journal:
        """`journal`, with what was told beside it; or one beside, where another process is not done with it in time.

        That process may be sending it to a server that hangs. Its record and this one are sent later, in this order.
        """
        busy = None
        if self._patience.take(journal.hold):
            busy = next((later for later in journal.later() if not self._patience.take(later.hold)), None)
            if busy is None:
                return journal
            for held in (journal, *journal.later()):
                held.release()
        if not self.failed:
            self._give_up(f"{(busy or journal).path.name} is held by another process")
        beside = (journal.same() or [journal])[-1].beside()
        while not beside.hold():
            beside = beside.beside()
        return beside

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
            self._give_up(reason(error, store_uri()))
            return None

    def _give_up(self, why: str) -> None:
        self.failed = True
        self._patience.store_failed()
        uri = printable(without_password(store_uri()))
        print(
            f"warning: MLflow at {uri} failed ({why}); going on. The record is kept in "
            f".tracking and sent when the stage ends, or later by `{_command()}`",
            file=sys.stderr,
        )


def _command() -> str:
    """What sends the record, in this terminal or in another one."""
    if without_password(store_uri()) != store_uri():
        return f"{SYNC}, with MLFLOW_TRACKING_URI set as now: its password is not kept"
    return SYNC


def _first_of_the_latest(same: list[Journal]) -> Entry | None:
    """How the latest of these tellings that can be read begins."""
    for journal in reversed(same):
        try:
            return journal.entries()[0]
        except (InputError, IndexError):
            continue
    return None


def _now() -> int:
    return int(time.time() * 1000)


def origin_tags() -> dict[str, str]:
    """Where a run comes from: DVC experiment and baseline, git commit, and a digest of the code that runs."""
    root = Path(__file__).parents[2]
    code = sorted(path for folder in ("pipeline", "stages") for path in (root / folder).rglob("*.py"))
    tags = {
        "code.digest": digest_of({str(path.relative_to(root)): sha256(path) for path in code}),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "mlflow.source.name": "dvc " + ("exp run" if "DVC_EXP_NAME" in os.environ else "repro"),
    }
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        tags["git.commit"] = tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return {name: value for name, value in tags.items() if value}
