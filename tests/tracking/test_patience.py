"""What a stage does not ask of a server a second time, and when time for uploads is free."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import Point, Tracker, journals, store_uri
from pipeline.tracking.delivery import JUDGED_BY, TOKEN, TRAIN_KEY, Delivery
from pipeline.tracking.patience import Patience, TooSlowError, bounded
from tests.stages.running import invoke, work_in

PARAMS = {"memory.size": 8}
LONG = 60.0  # seconds that nothing here takes


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path / "clone", monkeypatch)


def runs() -> list[Run]:
    client = MlflowClient(tracking_uri=store_uri())
    experiment = client.get_experiment_by_name("ours")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


class Late:
    """A request that the store does when it is let through, and that a stage has given up until then."""

    def __init__(self) -> None:
        self._through, self.done = threading.Event(), threading.Event()

    def request(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """As `method` of a client, and late."""

        def late(*arguments: Any, **named: Any) -> Any:
            self._through.wait(LONG)
            try:
                return method(*arguments, **named)
            finally:
                self.done.set()

        return late

    def let_through(self) -> None:
        self._through.set()
        assert self.done.wait(LONG)


class Tardy:
    """A client whose method `name` is late, the first time."""

    def __init__(self, client: MlflowClient, name: str, late: Late) -> None:
        self._client, self._name, self._late = client, name, late

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name == self._name:
            self._name = ""
            return self._late.request(method)
        return method


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Late]]:
    """Make one request of the next stage late; what takes two seconds is given up."""
    made: list[Late] = []

    def make(name: str) -> Late:
        made.append(Late())
        names = [name]
        opened = Delivery.__init__

        def open_tardy(self: Delivery, *arguments: Any, patience: Patience | None = None, **named: Any) -> None:
            opened(self, *arguments, **named)
            if patience is not None:
                client = Tardy(self.client, names.pop() if names else "", made[-1])
                self.client = bounded(client, patience)  # type: ignore[arg-type]

        monkeypatch.setattr(Delivery, "__init__", open_tardy)
        monkeypatch.setattr(Patience, "_left", lambda _self: 2.0)
        return made[-1]

    yield make
    for request in made:
        request.let_through()


def trained() -> Tracker:
    tracker = Tracker("ours")
    tracker.begin("k", "fne", PARAMS, {})
    tracker.log([Point("train/loss", 1.0, 1, 1000)])
    return tracker


def end(tracker: Tracker) -> None:
    tracker.finish()
    tracker.close()


@pytest.mark.parametrize("request_name", ["create_run", "update_run"])
def test_what_may_be_done_late_is_told_again_by_the_command_and_not_at_the_end(
    request_name: str, clone: Path, late: Callable[[str], Late], capfd: pytest.CaptureFixture[str]
) -> None:
    """A run would stand there twice, or be running for ever."""
    if request_name == "update_run":
        with pytest.raises(KeyboardInterrupt), Tracker("ours") as killed:
            killed.begin("k", "fne", PARAMS, {})
            raise KeyboardInterrupt
    request = late(request_name)
    end(trained())
    told = capfd.readouterr().err
    assert "did not come back (a request was not answered and may still be done" in told
    assert told.rstrip().endswith("To send the record: python -m commands.sync")
    request.let_through()
    assert invoke("sync").output == "train-k.jsonl: sent\n"
    assert [(run.info.status, run.data.metrics) for run in runs()] == [("FINISHED", {"train/loss": 1.0})]
    assert not journals()


def test_what_was_given_up_and_done_since_is_told_at_the_end(
    clone: Path, late: Callable[[str], Late], capfd: pytest.CaptureFixture[str]
) -> None:
    request = late("create_run")
    tracker = trained()
    assert tracker.failed
    request.let_through()
    settled(tracker)
    end(tracker)
    assert "MLflow is back: the whole record was sent" in capfd.readouterr().err
    assert [(run.info.status, run.data.metrics) for run in runs()] == [("FINISHED", {"train/loss": 1.0})]
    assert not journals()


def settled(tracker: Tracker) -> None:
    """Wait for the thread that was left behind."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and thread.name.endswith("(work)"):
            thread.join(LONG)
    assert not tracker._patience.unsettled


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_run_that_a_late_request_made_again_is_deleted_when_the_record_is_sent(
    evaluation: bool, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr("pipeline.tracking.run.Delivery", None)
        context.setattr("pipeline.tracking.sending.Delivery", None)
        if evaluation:
            tracker = Tracker("ours")
            tracker.continue_for_evaluation("k", "e", "fne", PARAMS, {})
            tracker.log([Point("test/rsum", 1.0, 1, 1000)])
        else:
            tracker = trained()
        end(tracker)
    (journal,) = journals()
    token = json.loads(journal.path.read_text().splitlines()[0])["token"]
    client = MlflowClient(tracking_uri=store_uri())
    experiment_id = client.create_experiment("ours")
    for _ in range(3):
        client.create_run(experiment_id, tags={TRAIN_KEY: "k", JUDGED_BY if evaluation else TOKEN: token})
    assert invoke("sync").exit_code == 0
    assert [(run.info.status, len(run.data.metrics)) for run in runs()] == [("FINISHED", 1)]


def test_an_upload_has_no_free_time_once_the_store_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the requests themselves set."""
    now = [0.0]
    monkeypatch.setattr("pipeline.tracking.patience.time.monotonic", lambda: now[0])
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)

    def upload() -> None:
        now[0] += 5.5

    patience = Patience()
    patience.wait(upload, 5.0)
    assert patience.waited == pytest.approx(0.5)
    patience.store_failed()
    patience.wait(upload, 5.0)
    assert patience.waited == pytest.approx(6.0)
    with pytest.raises(TooSlowError):
        patience.wait(upload, 5.0)


def test_a_stage_whose_store_has_failed_says_so_to_its_patience(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(Patience, "store_failed", lambda _self: told.append(True))
    monkeypatch.setattr("pipeline.tracking.run.Delivery", None)
    Tracker("ours")
    assert told == [True]
