"""A process that is killed between two requests: the next one goes on, and nothing stands in the store twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import Point, Tracker, store_uri
from pipeline.tracking.journal import Journal, remove_leftovers
from tests.stages.running import invoke, work_in

PARAMS = {"memory.size": 8}
MODEL_REQUESTS = (
    *("create_logged_model", "log_model_artifact", "finalize_logged_model", "log_outputs", "create_registered_model"),
    *("create_model_version", "set_tag"),
)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours may handle it."""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path / "clone", monkeypatch)


def kill_instead_of(request: str) -> pytest.MonkeyPatch:
    """When it comes to a client's method, the process is no more."""

    def killed(*_arguments: Any, **_named: Any) -> Any:
        raise KilledError

    context = pytest.MonkeyPatch()
    context.setattr(MlflowClient, request, killed)
    return context


def runs() -> list[Run]:
    client = MlflowClient(tracking_uri=store_uri())
    experiment = client.get_experiment_by_name("ours")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def trained(key: str = "k") -> None:
    tracker = Tracker("ours")
    tracker.begin(key, "fne", PARAMS, {})
    tracker.finish()
    tracker.close()


def evaluated(evaluate_key: str = "e", *, model: Path | None = None) -> None:
    tracker = Tracker("ours")
    if tracker.continue_for_evaluation("k", evaluate_key, "fne", PARAMS, {}):
        tracker.log([Point("test/rsum", 100.0, 1, tracker.began)])
        if model is not None:
            tracker.keep_model("ours", "pipeline.serving", {"trained": model}, {"caption": "a dog"}, 3)
        tracker.finish()
        tracker.close()
    assert not tracker.failed


@pytest.mark.parametrize("request_name", MODEL_REQUESTS)
def test_a_kill_while_a_model_is_kept_leaves_one(request_name: str, clone: Path) -> None:
    folder = clone / "models"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    trained()
    killer = kill_instead_of(request_name)
    with pytest.raises(KilledError):
        evaluated(model=folder)
    killer.undo()
    for _ in range(2):
        evaluated(model=folder)
    client = MlflowClient(tracking_uri=store_uri())
    (run,) = runs()
    (version,) = client.search_model_versions("name = 'ours'")
    (logged,) = client.search_logged_models([run.info.experiment_id])
    assert (version.run_id, logged.source_run_id, logged.status) == (run.info.run_id, run.info.run_id, "READY")
    assert run.outputs is not None
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(logged.model_id, 3)]
    assert run.data.tags["pipeline.model"] == str(version.version)
    files = Path(logged.artifact_location.removeprefix("file://"))
    assert (files / "MLmodel").is_file()
    assert (files / "data/data/trained/model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in files.parent.parent.iterdir()] == [logged.model_id]


@pytest.mark.parametrize("request_name", ["create_run", "log_batch"])
def test_a_kill_while_a_second_evaluation_is_begun_leaves_one_child(request_name: str, clone: Path) -> None:
    trained()
    evaluated("e")
    killer = kill_instead_of(request_name)
    with pytest.raises(KilledError):
        evaluated("other settings")
    killer.undo()
    evaluated("other settings")
    assert [run.info.status for run in runs()] == ["FINISHED", "FINISHED"]
    assert [run.data.params for run in runs()] == [{"memory.size": "8"}] * 2


def test_a_kill_while_a_run_is_made_after_a_pull_leaves_one(clone: Path) -> None:
    killer = kill_instead_of("log_batch")
    with pytest.raises(KilledError):
        evaluated()
    killer.undo()
    (begun,) = runs()
    assert begun.data.tags["pipeline.evaluate_key"] == "e", "told with the run: nothing lies between"
    evaluated()
    (run,) = runs()
    assert (run.info.status, run.data.params) == ("FINISHED", {"memory.size": "8"})


def test_a_kill_while_a_journal_is_begun_anew_leaves_one_that_can_be_sent(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (clone / "metrics.json").write_text("{}")

    def away() -> None:
        tracker = Tracker("ours")
        tracker.begin("k", "fne", PARAMS, {})
        tracker.artifact(clone / "metrics.json")

    away()
    journal = Journal.of("train", "k")
    assert [path.name for path in journal.files.rglob("*.json")] == ["metrics.json"]

    def killed(*_arguments: Any) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as context:
        context.setattr("pipeline.tracking.journal.write_text", killed)
        with pytest.raises(KilledError):
            away()
    named = [entry["path"] for entry in journal.entries() if entry["do"] == "artifact"]
    assert all((journal.files / path).exists() for path in named)


def test_a_kill_while_a_sent_journal_is_removed_leaves_nothing_that_is_asked_for_again(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "metrics.json").write_text("{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    def told(key: str) -> Journal:
        tracker = Tracker("ours")
        tracker.begin(key, "fne", PARAMS, {})
        tracker.artifact(clone / "metrics.json")
        return Journal.of("train", key)

    def killed(*_arguments: Any, **_named: Any) -> None:
        raise KilledError

    journal = told("k")
    with pytest.MonkeyPatch.context() as context:
        context.setattr("pipeline.tracking.journal.shutil.rmtree", killed)
        with pytest.raises(KilledError):
            journal.remove()
    assert (journal.path.exists(), journal.files.exists()) == (False, True)
    said = invoke("sync")
    assert (said.exit_code, said.output) == (0, "nothing to send: MLflow has every record\n")
    assert not journal.files.exists()
    needed = told("other")
    remove_leftovers()
    assert needed.files.exists()


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KilledError, "KILLED")])
def test_an_exception_ends_the_run(error: type[BaseException], status: str, clone: Path) -> None:
    with pytest.raises(error), Tracker("ours") as tracker:
        tracker.begin("k", "fne", PARAMS, {})
        raise error
    assert [run.info.status for run in runs()] == [status]


@pytest.mark.parametrize("error", [ValueError, KilledError])
def test_an_evaluation_that_fails_leaves_its_trainings_run_as_it_was_and_its_own_ended(
    error: type[BaseException], clone: Path
) -> None:
    trained()
    evaluated("e")
    with pytest.raises(error), Tracker("ours") as tracker:
        tracker.continue_for_evaluation("k", "other settings", "fne", PARAMS, {})
        raise error
    told = "FAILED" if error is ValueError else "KILLED"
    assert {run.info.run_name: run.info.status for run in runs()} == {"fne": "FINISHED", "fne (evaluated again)": told}


@pytest.mark.parametrize("error", [ValueError, KilledError])
def test_a_signal_while_the_run_is_made_does_not_leave_it_running(
    error: type[BaseException], clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has made it, and its id is not known yet."""
    create = MlflowClient.create_run

    def made_and_killed(*arguments: Any, **named: Any) -> Any:
        create(*arguments, **named)
        monkeypatch.undo()
        monkeypatch.chdir(clone)
        raise error

    monkeypatch.setattr(MlflowClient, "create_run", made_and_killed)
    if error is ValueError:
        tracker = Tracker("ours")
        tracker.begin("k", "fne", PARAMS, {})  # failed: a warning, and at the end it is sent
        tracker.finish()
    else:
        with pytest.raises(error), Tracker("ours") as tracker:
            tracker.begin("k", "fne", PARAMS, {})
    assert [run.info.status for run in runs()] == ["FINISHED" if error is ValueError else "KILLED"]
