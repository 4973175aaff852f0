"""A journal that another process holds, as `commands.sync` does while it sends it: nothing is doubled or lost."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import Point, Tracker, journals, store_uri
from pipeline.tracking.journal import Journal
from pipeline.tracking.sending import send
from tests.stages.running import invoke, work_in

PARAMS = {"memory.size": 8}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pipeline.tracking.sending.LONGER_PATIENCE", {})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.4")
    return work_in(tmp_path / "clone", monkeypatch)


@contextmanager
def out_of_reach() -> Iterator[None]:
    """No store answers in the block."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr("pipeline.tracking.run.Delivery", None)
        context.setattr("pipeline.tracking.sending.Delivery", None)
        yield


@contextmanager
def held(journal: Journal) -> Iterator[None]:
    """Another process has the journal."""
    with open(journal.path.with_suffix(".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def trained(*, afresh: bool = False, steps: int = 1) -> Tracker:
    tracker = Tracker("ours")
    tracker.begin("k", "fne", PARAMS, {}, afresh=afresh)
    tracker.log([Point("train/loss", 1.0, step, tracker.began + step) for step in range(steps)])
    end(tracker)
    return tracker


def evaluated() -> Tracker:
    tracker = Tracker("ours")
    assert tracker.continue_for_evaluation("k", "e", "fne", PARAMS, {})
    tracker.log([Point("test/rsum", 100.0, 1, tracker.began)])
    end(tracker)
    return tracker


def reported(page: Path) -> Tracker:
    tracker = Tracker("ours")
    assert tracker.find_evaluation("e")
    page.write_text("<p>")
    tracker.artifact(page, "report")
    end(tracker)
    return tracker


def end(tracker: Tracker) -> None:
    tracker.finish()
    tracker.close()


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri())


def runs() -> list[Run]:
    experiment = client().get_experiment_by_name("ours")
    return list(client().search_runs([experiment.experiment_id])) if experiment else []


def names() -> list[str]:
    return [journal.path.name for journal in journals()]


@pytest.fixture
def training(clone: Path) -> Journal:
    """The journal of a training whose store was out of reach."""
    with out_of_reach():
        trained()
    (journal,) = journals()
    return journal


def test_an_evaluation_whose_training_is_being_sent_makes_no_run_of_its_own(
    training: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    with held(training):
        evaluation = evaluated()
        told = capfd.readouterr().err
        assert f"failed ({training.path.name} is held by another process); going on" in told
        assert told.rstrip().endswith("To send the record: python -m commands.sync")
        assert runs() == []
        assert 0.5 < evaluation.waited < 10, "it waits for what it needs, and not for ever"
        result = invoke("sync")
        assert (result.exit_code, result.output.count("left alone")) == (0, 2)
        assert runs() == []
    assert invoke("sync").output.count(": sent\n") == 2
    (run,) = runs()
    assert run.data.metrics == {"train/loss": 1.0, "test/rsum": 100.0}
    assert run.info.status == "FINISHED"


def test_an_evaluation_waits_for_a_training_that_is_soon_sent(
    training: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who held it has sent it in the time that the evaluation waits."""
    holding = held(training)
    holding.__enter__()

    def hold(self: Journal, seconds: float = 0.0) -> bool:
        if self.path == training.path and seconds > 0:
            holding.__exit__(None, None, None)
            assert send(Journal(training.path)) == "sent"
        return take(self, seconds)

    take = Journal.hold
    monkeypatch.setattr(Journal, "hold", hold)
    assert not evaluated().failed
    (run,) = runs()
    assert run.data.metrics == {"train/loss": 1.0, "test/rsum": 100.0}


def test_an_evaluation_goes_into_the_run_of_a_training_that_runs_again(clone: Path) -> None:
    """The run is there: the training's journal is its own affair."""
    training = Tracker("ours")
    training.begin("k", "fne", PARAMS, {})
    journal = Journal.of("train", "k")
    training._journal = None
    journal.release()
    with held(journal):
        assert not evaluated().failed
    (run,) = runs()
    assert run.info.run_id == training.run_id
    assert run.data.metrics == {"test/rsum": 100.0}


def test_a_report_whose_evaluation_is_being_sent_is_kept(clone: Path) -> None:
    with out_of_reach():
        evaluated()
    (evaluation,) = journals()
    with held(evaluation):
        assert reported(clone / "index.html").failed
    assert invoke("sync").output.count(": sent\n") == 2
    (run,) = runs()
    assert [found.path for found in client().list_artifacts(run.info.run_id, "report")] == ["report/index.html"]


@pytest.mark.parametrize("afresh", [False, True])
def test_a_training_whose_own_journal_is_being_sent_is_told_beside_it(
    afresh: bool, training: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    before = training.path.read_bytes()
    with held(training):
        tracker = trained(afresh=afresh, steps=2)
        told = capfd.readouterr().err
        assert f"failed ({training.path.name} is held by another process); going on" in told
        assert told.rstrip().endswith("To send the record: python -m commands.sync")
        assert 0.5 < tracker.waited < 10
        assert names() == ["train-k.jsonl", "train-k~.jsonl"]
        assert "train-k~.jsonl: train-k.jsonl is held by another process" in invoke("sync").output
        assert runs() == []
    assert training.path.read_bytes() == before
    assert invoke("sync").output == "train-k.jsonl: sent\ntrain-k~.jsonl: sent\n"
    (run,) = runs()
    assert run.info.status == "FINISHED"
    history = client().get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == [0, 1]
    assert names() == []


def test_what_was_told_beside_is_sent_when_the_stage_ends_if_it_can_be(training: Journal) -> None:
    with held(training):
        tracker = Tracker("ours")
        tracker.begin("k", "fne", PARAMS, {})
    end(tracker)
    (run,) = runs()
    assert (run.info.status, names()) == ("FINISHED", [])


def test_an_evaluation_first_sends_what_its_training_told_beside(training: Journal) -> None:
    with held(training):
        trained(steps=2)
    evaluated()
    (run,) = runs()
    assert (run.info.status, names()) == ("FINISHED", [])
    assert set(run.data.metrics) == {"train/loss", "test/rsum"}


def test_a_stage_that_begins_again_replaces_what_was_told_beside(training: Journal) -> None:
    with held(training):
        trained(steps=2)
    token = json.loads(Path(training.path.parent / "train-k~.jsonl").read_text().splitlines()[0])["token"]
    with out_of_reach():
        trained()
    assert names() == ["train-k.jsonl"]
    assert json.loads(training.path.read_text().splitlines()[0])["token"] == token


def test_where_what_was_told_beside_is_held_too_a_third_is_told(training: Journal) -> None:
    with held(training):
        trained()
    with held(Journal(training.path.parent / "train-k~.jsonl")):
        trained()
        assert names() == ["train-k~.jsonl", "train-k~~.jsonl"], "the first was sent when the stage ended"
    assert invoke("sync").output.count(": sent\n") == 2
    assert [run.info.status for run in runs()] == ["FINISHED"]
