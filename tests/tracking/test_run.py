"""The record in MLflow: found again, never doubled, and never in a training's way."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import EVALUATE_KEY, Point, Tracker, store_uri
from tests.stages.running import work_in

PARAMS: Mapping[str, Any] = {"memory.size": 8, "data.root": None, "train.milestones": [4]}
TAGS = {"git.commit": "c0ffee"}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path / "clone", monkeypatch)


def begun(key: str, name: str = "fne") -> Tracker:
    tracker = Tracker("ours")
    tracker.begin(key, name, PARAMS, TAGS)
    assert not tracker.failed
    return tracker


def end(tracker: Tracker) -> None:
    tracker.finish()
    tracker.close()


def continued(key: str, evaluate_key: str, *, killed: bool = False) -> tuple[bool, Tracker]:
    """As stage `evaluate` does; `killed`: before it sent its figures."""
    tracker = Tracker("ours")
    to_log = tracker.continue_for_evaluation(key, evaluate_key, "fne", PARAMS, TAGS)
    if to_log and not killed:
        tracker.log([Point("test/rsum", 100.0, 1, tracker.began)])
        end(tracker)
    assert not tracker.failed
    return to_log, tracker


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri())


def runs() -> list[Run]:
    experiment = client().get_experiment_by_name("ours")
    return list(client().search_runs([experiment.experiment_id])) if experiment else []


def open_first(folder: str, barrier: Any, answers: Any) -> None:
    """One of several processes that find no store yet."""
    os.chdir(folder)
    barrier.wait(timeout=120)
    tracker = Tracker("ours")
    tracker.begin(f"key of {os.getpid()}", "first", PARAMS, TAGS)
    answers.put((tracker.failed, tracker.run_id))


def test_two_processes_make_the_store_at_once(clone: Path) -> None:
    (clone / "mlflow.db").unlink()
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=open_first, args=(str(clone), barrier, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=240) for _ in workers]
    for worker in workers:
        worker.join()
    assert [failed for failed, _ in found] == [False, False]
    assert {run_id for _, run_id in found} == {run.info.run_id for run in runs()}
    assert len(runs()) == 2


def test_a_run_has_its_parameters_tags_and_name(clone: Path) -> None:
    begun("k", name="fne · memory 8")
    (run,) = runs()
    assert run.data.params == {"memory.size": "8", "data.root": "null", "train.milestones": "[4]"}
    assert run.data.tags["git.commit"] == "c0ffee"
    assert run.info.run_name == "fne · memory 8"
    assert run.info.status == "RUNNING"


@pytest.mark.parametrize("left", [None, "FAILED", "KILLED"])
def test_what_did_not_finish_is_gone_on_with(left: str | None, clone: Path) -> None:
    first = begun("k")
    if left:
        first.finish(left)
    second = begun("k")
    assert second.run_id == first.run_id
    assert [run.info.status for run in runs()] == ["RUNNING"]
    end(second)
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_what_finished_is_left_alone(clone: Path) -> None:
    first = begun("k")
    end(first)
    assert continued("k", "e")[0]
    second, other = begun("k"), begun("another key")
    assert len({first.run_id, second.run_id, other.run_id}) == 3
    assert begun("k").run_id == second.run_id


def test_what_finished_and_was_never_evaluated_is_replaced(clone: Path) -> None:
    """Killed when all was done, before DVC knew: the training is taken again, and must not stand there twice."""
    first = begun("k")
    first.log([Point("train/loss", 1.0, 1, 1000)])
    end(first)
    second = Tracker("ours")
    second.begin("k", "fne", PARAMS, TAGS, afresh=True)
    second.log([Point("train/loss", 1.0, 1, 2000)])
    end(second)
    (run,) = runs()
    assert run.info.run_id == second.run_id != first.run_id


def test_what_another_machine_has_begun_is_left_alone(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = begun("k")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "elsewhere"))
    ours = begun("k")
    assert ours.run_id != theirs.run_id
    assert [run.info.status for run in runs()] == ["RUNNING", "RUNNING"]


def test_figures_sent_again_change_nothing_and_nan_is_left_out(clone: Path) -> None:
    tracker = begun("k")
    points = [Point("train/loss", 1 / (step + 1), step, 1000 + step) for step in range(2100)]  # more than two requests
    points += [Point("val/rsum", float("nan"), 1, 1000), Point("val/rsum", float("inf"), 2, 1000)]
    tracker.log(points)
    tracker.log(points[:50])
    begun("k").log(points)
    assert tracker.run_id is not None
    history = client().get_metric_history(tracker.run_id, "train/loss")
    assert [(m.step, m.timestamp, m.value) for m in sorted(history, key=lambda m: m.step)] == [
        (point.step, point.time, point.value) for point in points[:2100]
    ]
    assert client().get_metric_history(tracker.run_id, "val/rsum") == []
    assert not tracker.failed


def test_rows_are_sent_by_their_own_step_and_time(clone: Path) -> None:
    tracker = begun("k")
    tracker.log_rows([{"epoch": 0, "step": 7, "time": 1234, "train/loss": 0.5, "val/i2t/R1": 50}])
    (run,) = runs()
    assert run.data.metrics == {"train/loss": 0.5, "val/i2t/R1": 50}
    (metric,) = client().get_metric_history(run.info.run_id, "train/loss")
    assert (metric.step, metric.timestamp) == (7, 1234)


def test_an_evaluation_goes_into_the_run_that_trained_once(clone: Path) -> None:
    trained = begun("k")
    end(trained)
    to_log, tracker = continued("k", "e")
    assert to_log
    assert tracker.run_id == trained.run_id
    again, tracker = continued("k", "e")
    assert not again
    assert tracker.run_id == trained.run_id
    assert len(runs()) == 1


def test_an_evaluation_with_other_settings_becomes_a_child(clone: Path) -> None:
    trained = begun("k")
    end(trained)
    continued("k", "e")
    to_log, child = continued("k", "other settings")
    assert to_log
    assert child.run_id != trained.run_id
    again, same = continued("k", "other settings")
    assert not again
    assert same.run_id == child.run_id
    assert child.run_id is not None
    tags = client().get_run(child.run_id).data.tags
    assert tags["mlflow.parentRunId"] == trained.run_id
    assert tags[EVALUATE_KEY] == "other settings"
    first_again, tracker = continued("k", "e")
    assert not first_again
    assert tracker.run_id == trained.run_id
    assert len(runs()) == 2


@pytest.mark.parametrize("evaluate_key", ["e", "other settings"])
def test_an_evaluation_that_was_killed_is_made_up_for(evaluate_key: str, clone: Path) -> None:
    end(begun("k"))
    continued("k", "e", killed=evaluate_key == "e")
    _, killed = continued("k", evaluate_key, killed=True)
    to_log, tracker = continued("k", evaluate_key)
    assert to_log
    assert tracker.run_id == killed.run_id is not None
    run = client().get_run(killed.run_id)
    assert run.data.metrics == {"test/rsum": 100.0}
    assert run.info.status == "FINISHED"


def test_an_evaluation_finds_no_run_after_a_pull_and_makes_one(clone: Path) -> None:
    to_log, tracker = continued("k", "e")
    assert to_log
    (run,) = runs()
    assert run.info.run_id == tracker.run_id
    assert run.data.metrics == {"test/rsum": 100.0}
    assert not continued("k", "e")[0]


def test_an_evaluation_after_its_run_was_deleted_makes_another(clone: Path) -> None:
    trained = begun("k")
    end(trained)
    continued("k", "e")
    assert trained.run_id is not None
    client().delete_run(trained.run_id)
    to_log, tracker = continued("k", "e")
    assert to_log
    assert tracker.run_id != trained.run_id


def test_artifacts_lie_below_the_main_repository_wherever_a_stage_works(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = tmp_path / "queued"
    queued.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(clone))
    monkeypatch.chdir(queued)
    tracker = begun("k")
    (queued / "metrics.json").write_text("{}")
    tracker.artifact(queued / "metrics.json")
    assert tracker.run_id is not None
    experiment = client().get_experiment_by_name("ours")
    assert experiment is not None
    assert experiment.artifact_location == (clone / "mlartifacts").as_uri()
    assert (clone / "mlartifacts" / tracker.run_id / "artifacts/metrics.json").read_text() == "{}"
    assert [path.name for path in queued.iterdir()] == ["metrics.json"]


def test_the_store_is_the_servers_else_the_main_repositorys_else_here(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_uri() == f"sqlite:///{clone}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert store_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert store_uri() == "http://127.0.0.1:9"


def test_a_server_that_is_not_there_costs_one_warning(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker = Tracker("ours")
    bounds = {name: os.environ[f"MLFLOW_HTTP_REQUEST_{name}"] for name in ("MAX_RETRIES", "TIMEOUT")}
    assert bounds == {"MAX_RETRIES": "0", "TIMEOUT": "2"}
    tracker.begin("k", "fne", PARAMS, TAGS)
    tracker.log([Point("train/loss", 1.0, 1, 1000)])
    end(tracker)
    assert tracker.failed
    out, error = capfd.readouterr()
    assert out == ""
    warning, told = error.splitlines()
    assert warning.startswith("warning: MLflow at http://127.0.0.1:9 failed (")
    assert told.startswith("MLflow did not come back (")
    assert told.endswith("To send the record: python -m commands.sync")


def test_a_store_that_fails_later_costs_one_warning(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = begun("k")
    capfd.readouterr()
    (clone / "mlflow.db").write_bytes(b"no database" * 1000)
    tracker.log([Point("train/loss", 1.0, 1, 1000)])
    tracker.finish()
    assert tracker.failed
    assert capfd.readouterr().err.count("warning: ") == 1


def test_a_silent_tracker_leaves_no_trace(clone: Path) -> None:
    tracker = Tracker("ours", silent=True)
    tracker.begin("k", "fne", PARAMS, TAGS)
    tracker.log([Point("train/loss", 1.0, 1, 1000)])
    tracker.finish()
    assert runs() == []
