"""The record in the repository's own store: found again, never doubled, and never in a training's way."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.errors import InputError
from pipeline.tracking import Tracker, finished_runs, set_up_view, store_uri
from tests.stages.running import invoke
from tests.tracking.making import EXPERIMENT, PARAMS, begun, evaluated, runs, steps, trained

pytestmark = pytest.mark.usefixtures("clone")


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours may handle it."""


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri())


def work(folder: str, root: str, key: str, barrier: Any, answers: Any) -> None:
    """A stage of the workspace or of a queue's worker, one of several that find no store yet."""
    os.chdir(folder)
    os.environ["DVC_ROOT"] = root
    barrier.wait(timeout=120)
    trained(key)
    answers.put(evaluated(key).failed)


@pytest.mark.end_to_end
def test_two_queue_workers_and_the_workspace_share_one_store(clone: Path, tmp_path: Path) -> None:
    (clone / "mlflow.db").unlink()
    context = multiprocessing.get_context("spawn")
    folders = [clone, tmp_path / "one", tmp_path / "two"]
    barrier, answers = context.Barrier(3), context.Queue()
    workers = []
    for folder in folders:
        folder.mkdir(exist_ok=True)
        arguments = (str(folder), str(clone), folder.name, barrier, answers)
        workers.append(context.Process(target=work, args=arguments))
        workers[-1].start()
    assert [answers.get(timeout=240) for _ in workers] == [False] * 3
    for worker in workers:
        worker.join()
    assert [run.info.status for run in runs()] == ["FINISHED"] * 3
    assert {len(steps(run, "train/loss")) for run in runs()} == {3}
    experiment = client().get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert experiment.artifact_location == (clone / "mlartifacts").as_uri(), "not in a folder that is lost"
    assert all((clone / "mlartifacts" / run.info.run_id / "artifacts/metrics.json").exists() for run in runs())


def test_a_run_has_its_parameters_tags_name_and_finite_metrics() -> None:
    begun()
    (run,) = runs()
    assert run.data.params == {"memory.size": "8", "data.root": "null", "train.milestones": "[4]"}
    assert (run.data.tags["git.commit"], run.info.run_name, run.info.status) == ("c0ffee", "run k", "RUNNING")
    assert set(run.data.metrics) == {"train/loss"}
    (first, *_) = client().get_metric_history(run.info.run_id, "train/loss")
    assert (first.step, first.timestamp, first.value) == (0, 1000, 1.0)


@pytest.mark.parametrize("left", [None, "FAILED", "KILLED"])
def test_what_did_not_finish_is_continued_and_no_step_stands_there_twice(left: str | None) -> None:
    first = begun()
    if left:
        first.finish(left)
    second = begun()
    second.log_rows([{"step": step, "train/loss": 9.0} for step in range(2500)])
    assert second.run_id == first.run_id
    assert [run.info.status for run in runs()] == ["RUNNING"]
    second.finish()
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert [step for step, _ in steps(run, "train/loss")] == list(range(2500))
    assert steps(run, "train/loss")[0] == (0, 1.0), "a step that was written stays as it is"


def test_what_finished_and_was_evaluated_is_left_alone() -> None:
    first = trained()
    evaluated()
    assert len({first.run_id, begun().run_id, begun("other").run_id}) == 3


@pytest.mark.parametrize("finished", [True, False])
def test_a_training_that_starts_again_replaces_what_it_left(finished: bool) -> None:
    """Killed when all was done, before DVC knew; or its checkpoint is gone."""
    first = trained() if finished else begun()
    second = trained(restart=True)
    (run,) = runs()
    assert run.info.run_id == second.run_id != first.run_id


def test_an_evaluation_continues_the_run_that_trained_once() -> None:
    first = trained()
    assert evaluated().run_id == evaluated().run_id == first.run_id
    assert Tracker(EXPERIMENT).find_evaluation("e")
    assert not Tracker(EXPERIMENT).find_evaluation("of another store")
    (run,) = runs()
    assert (run.data.metrics["test/rsum"], run.info.status) == (100.0, "FINISHED")


def test_the_first_evaluation_says_what_the_run_is() -> None:
    """What only an evaluation reads may be edited after the training, and its code too."""
    first = trained()
    with Tracker(EXPERIMENT) as tracker:
        assert tracker.continue_for_evaluation(
            "k", "e", "folds 3", {**PARAMS, "evaluate.folds": 3}, {"code.digest": "new"}
        )
        tracker.finish()
    (run,) = runs()
    assert (run.info.run_id, run.info.run_name, run.data.tags["code.digest"]) == (first.run_id, "folds 3", "new")
    assert (run.data.params["evaluate.folds"], run.data.tags["git.commit"]) == ("3", "c0ffee")


def test_a_later_stage_does_not_make_the_run_longer() -> None:
    trained()
    (run,) = runs()
    evaluated()
    (later,) = runs()
    assert "test/rsum" in later.data.metrics and later.info.end_time == run.info.end_time


def test_an_evaluation_with_other_settings_becomes_a_child() -> None:
    first = trained()
    evaluated()
    child = evaluated(evaluate_key="other")
    assert evaluated(evaluate_key="other").run_id == child.run_id
    assert evaluated().run_id == first.run_id
    found = {run.info.run_id: run for run in runs()}
    assert found.keys() == {first.run_id, child.run_id}
    assert found[child.run_id].data.tags["mlflow.parentRunId"] == first.run_id
    assert found[child.run_id].info.run_name == "run k (evaluated again)"
    assert [run["tags"].get("data.digest") for run in finished_runs(EXPERIMENT)] == ["da7a"] * 2, "compare has both"


@pytest.mark.parametrize("evaluate_key", ["e", "other"])
def test_an_evaluation_that_was_killed_is_completed(evaluate_key: str) -> None:
    trained()
    evaluated(killed=evaluate_key == "e")
    killed = evaluated(evaluate_key=evaluate_key, killed=True)
    assert evaluated(evaluate_key=evaluate_key).run_id == killed.run_id
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert {run.data.metrics["test/rsum"] for run in runs()} == {100.0}


@pytest.mark.parametrize("deleted", [True, False])
def test_an_evaluation_without_a_trainings_run_makes_one(deleted: bool) -> None:
    """After a `dvc pull`, or when somebody deleted it."""
    if deleted:
        client().delete_run(trained().run_id)
    assert evaluated().run_id == evaluated().run_id
    assert [run.info.status for run in runs()] == ["FINISHED"]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KilledError, "KILLED")])
def test_an_exception_ends_the_run_that_its_stage_began(error: type[BaseException], status: str) -> None:
    with pytest.raises(error), begun("other"):
        raise error
    assert [run.info.status for run in runs()] == [status]
    trained()
    with pytest.raises(error), Tracker(EXPERIMENT) as tracker:
        tracker.continue_for_evaluation("k", "e", "fne", PARAMS, {})
        raise error
    assert {run.info.run_name: run.info.status for run in runs()} == {"run other": status, "fne": "FINISHED"}


def test_a_kill_at_any_request_while_a_model_is_kept_leaves_one() -> None:
    trained()
    requests = ("create_registered_model", "create_logged_model", "log_model_artifacts", "finalize_logged_model")
    for request in (*requests, "log_outputs", "create_model_version", "set_tag"):
        with pytest.MonkeyPatch.context() as context, pytest.raises(KilledError):
            context.setattr(MlflowClient, request, lambda *_arguments, **_named: (_ for _ in ()).throw(KilledError))
            evaluated(model="kept")
    evaluated(model="kept")
    (run,), (version,) = runs(), client().search_model_versions("name = 'kept'")
    (logged,) = client().search_logged_models([run.info.experiment_id])
    assert (version.run_id, logged.source_run_id, logged.status) == (run.info.run_id, run.info.run_id, "READY")
    assert run.outputs is not None
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(logged.model_id, 3)]
    assert run.data.tags["pipeline.model"] == str(version.version)
    files = Path(logged.artifact_location.removeprefix("file://"))
    assert (files / "data/data/trained/model.safetensors").read_bytes() == b"weights"


def test_a_store_that_fails_costs_one_warning_and_is_written_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as context:
        context.setattr(MlflowClient, "log_batch", lambda *_arguments, **_named: Path("/nowhere").stat())
        tracker = begun()
        tracker.log_rows([{"step": 3, "train/loss": 0.1}])
        tracker.describe("lost")
    assert tracker.failed
    tracker = begun()
    with monkeypatch.context() as context:
        context.setattr(MlflowClient, "log_batch", lambda *_arguments, **_named: Path("/nowhere").stat())
        tracker.log_rows([{"step": 3, "train/loss": 0.1}])
    tracker.finish()
    assert len(steps(runs()[0], "train/loss")) == 4
    said = capfd.readouterr().err.splitlines()
    assert [line.split(" failed (")[0] for line in said] == [f"warning: MLflow's store {store_uri()}"] * 2, "one each"


def test_a_deleted_experiment_is_one_clear_error() -> None:
    trained()
    experiment = client().get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    client().delete_experiment(experiment.experiment_id)
    for use in (Tracker, finished_runs, set_up_view):
        with pytest.raises(InputError, match=r"experiment 'ours' was deleted in sqlite:.*mlflow\.db: restore it"):
            use(EXPERIMENT)


def test_a_silent_tracker_leaves_no_trace() -> None:
    tracker = Tracker(EXPERIMENT, silent=True)
    tracker.begin("k", "fne", PARAMS, {})
    tracker.log_rows([{"step": 1, "train/loss": 1.0}])
    tracker.finish()
    assert runs() == []


def test_a_database_that_is_named_is_the_store(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_uri() == f"sqlite:///{clone}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert store_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert store_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    tracker = trained()
    assert (tracker._follower, len(runs(f"sqlite:///{tmp_path}/other.db"))) == (None, 1)
    assert "names no server" in invoke("sync").output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert store_uri() == f"sqlite:///{tmp_path}/other.db", "not in DVC's temporary copy, the working directory"
