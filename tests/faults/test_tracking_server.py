"""The tracking server fails: a training goes on, one warning is printed, and nothing that it was to be told is lost."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import Point, Tracker
from tests.faults.stores import Gate, gate, mlflow_server
from tests.stages.running import invoke, run, work_in, write_empty_store, write_tiny_params

PARAMS = {"memory.size": 8}
LONGEST_WAIT = 5.0  # seconds in all, the bound
FAILURES = ("500", "hang", "cut")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    write_empty_store(folder)
    with mlflow_server(folder) as port:
        yield port


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage before training has run."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as monkeypatch:
        work_in(folder, monkeypatch)
        write_tiny_params(folder, model__train="heads", train__epochs=2, tracking__model=None)
        run("download", "split", "base", "features", "bank")
    return folder


@pytest.fixture
def clone(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ready, tmp_path / "clone")
    folder = work_in(tmp_path / "clone", monkeypatch)
    write_tiny_params(
        folder, model__train="heads", train__epochs=2, tracking__model=None, tracking__experiment=tmp_path.name
    )
    return folder


@pytest.fixture
def before(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What stands before the real server and is all that the stages see of it."""
    with gate(server) as opened:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", opened.uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield opened


def runs(server: int, experiment: str) -> list[Run]:
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{server}")
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def figures(server: int, run_id: str, names: list[str]) -> Counter[tuple[str, int, float]]:
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{server}")
    return Counter(
        (name, metric.step, metric.value) for name in names for metric in client.get_metric_history(run_id, name)
    )


def history(folder: Path) -> Counter[tuple[str, int, float]]:
    with open(folder / "train/history.csv") as handle:
        rows = list(csv.DictReader(handle))
    return Counter(
        (name, int(row["step"]), float(value))
        for row in rows
        for name, value in row.items()
        if name not in ("epoch", "step") and value and value != "nan"
    )


def told_everything(server: int, experiment: str, folder: Path) -> bool:
    """One run, finished, each figure of the training once."""
    (found,) = runs(server, experiment)
    expected = history(folder)
    names = sorted({name for name, _, _ in expected})
    return found.info.status == "FINISHED" and figures(server, found.info.run_id, names) == expected


def warnings(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("behaviour", FAILURES)
def test_a_server_that_never_answers_costs_little_and_is_told_later(
    behaviour: str, clone: Path, tmp_path: Path, before: Gate, server: int
) -> None:
    before.behaviour = behaviour
    said = run("train")
    assert len(warnings(said)) == 1
    assert said.count("python -m stages.sync") == 2, "in the warning, and when the stage ends"
    assert runs(server, tmp_path.name) == []
    before.behaviour = "pass"
    for _ in range(2):
        run("sync")
    assert told_everything(server, tmp_path.name, clone)
    assert run("sync") == "nothing to send: MLflow has every record\n"


@pytest.mark.parametrize("number", [1, 3, 5, 8])
def test_a_server_that_dies_at_any_request_and_comes_back_is_told_when_the_stage_ends(
    number: int, clone: Path, tmp_path: Path, before: Gate, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Tracker.finish

    def back_at_the_end(self: Tracker, status: str = "FINISHED") -> None:
        before.behaviour, before.after = "pass", None
        finish(self, status)

    monkeypatch.setattr(Tracker, "finish", back_at_the_end)
    before.after = ("cut", number)
    said = run("train")
    assert len(warnings(said)) == 1
    assert "MLflow is back: the whole record was sent" in said
    assert not list(clone.glob(".tracking/*.jsonl"))
    assert told_everything(server, tmp_path.name, clone)


@pytest.mark.parametrize("behaviour", FAILURES)
def test_all_of_a_trackers_calls_wait_less_than_five_seconds(
    behaviour: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is waited for is counted, not measured: at most two requests, each at most the patience."""
    for name in ("TIMEOUT", "MAX_RETRIES"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    with gate(None, behaviour) as dead:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", dead.uri)
        tracker = Tracker("ours")
        tracker.begin("k", "fne", PARAMS, {})
        for step in range(50):
            tracker.log([Point("train/loss", 1.0, step, 1000 + step)])
        tracker.finish()
        tracker.close()
        assert len(dead.asked) <= 2
    from pipeline.tracking.store import PATIENCE

    assert PATIENCE["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert 2 * float(PATIENCE["MLFLOW_HTTP_REQUEST_TIMEOUT"]) < LONGEST_WAIT


def test_a_training_and_its_evaluation_without_a_server_are_one_run_later(
    clone: Path, tmp_path: Path, before: Gate, server: int
) -> None:
    before.behaviour = "cut"
    said = run("train", "evaluate")
    assert len(warnings(said)) == 2, "one a stage"
    before.behaviour = "pass"
    assert run("sync").count(": sent\n") == 2
    (found,) = runs(server, tmp_path.name)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test/rsum"] >= 0
    kept = {item.path for item in MlflowClient(tracking_uri=before.uri).list_artifacts(found.info.run_id)}
    assert {"metrics.json", "similarity.png", "ranks.parquet"} <= kept
    assert not [path for path in clone.glob(".tracking/**/*") if path.suffix not in (".lock", "") or path.is_dir()]


def test_a_journal_that_is_sent_twice_changes_nothing(clone: Path, tmp_path: Path, before: Gate, server: int) -> None:
    """As when `stages.sync` is killed after the last request and before it removes the journal."""
    before.behaviour = "cut"
    run("train", "evaluate")
    shutil.copytree(clone / ".tracking", tmp_path / "kept")
    before.behaviour = "pass"
    states = []
    for _ in range(2):
        shutil.copytree(tmp_path / "kept", clone / ".tracking", dirs_exist_ok=True)
        assert run("sync").count(": sent\n") == 2
        (found,) = runs(server, tmp_path.name)
        told = figures(server, found.info.run_id, sorted(found.data.metrics))
        states.append((found.to_dictionary(), told))
    assert states[0] == states[1]


def test_an_evaluation_first_sends_what_its_training_could_not(
    clone: Path, tmp_path: Path, before: Gate, server: int
) -> None:
    before.behaviour = "500"
    run("train")
    before.behaviour = "pass"
    assert warnings(run("evaluate")) == []
    (found,) = runs(server, tmp_path.name)
    assert "test/rsum" in found.data.metrics
    assert told_everything(server, tmp_path.name, clone)


def test_sync_names_a_server_that_is_still_away_and_keeps_everything(
    clone: Path, before: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    before.behaviour = "cut"
    run("train")
    (journal,) = clone.glob(".tracking/*.jsonl")
    kept = journal.read_bytes()
    monkeypatch.setattr("pipeline.tracking.run.LONGER_PATIENCE", {})
    result = invoke("sync")
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {journal}: MLflow at {before.uri} did not take it (")
    assert result.output.rstrip().endswith("nothing is lost, try again")
    assert journal.read_bytes() == kept


def test_a_journal_whose_last_line_a_kill_cut_off_is_sent_without_it(
    clone: Path, tmp_path: Path, before: Gate, server: int
) -> None:
    before.behaviour = "cut"
    run("train")
    (journal,) = clone.glob(".tracking/*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    before.behaviour = "pass"
    assert "its stage was killed" in run("sync")
    (found,) = runs(server, tmp_path.name)
    assert found.info.status == "KILLED"
    assert run("sync").startswith("nothing to send")


def test_a_server_that_is_slow_is_told_at_the_end(
    clone: Path, before: Gate, server: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.tracking.run.MOST_WAITING", 0.0)
    monkeypatch.setattr("pipeline.tracking.run.SHARE_OF_TIME", 0.0)
    tracker = Tracker("slow")
    tracker.begin("k", "fne", PARAMS, {})
    asked = 0
    for step in range(20):
        tracker.log([Point("train/loss", 1.0, step, 1000 + step)])
        asked = asked or len(before.asked)
    assert len(before.asked) == asked, "after the first, none waits for it"
    tracker.finish()
    tracker.close()
    (found,) = runs(server, "slow")
    assert sum(figures(server, found.info.run_id, ["train/loss"]).values()) == 20
    assert len(warnings(capfd.readouterr().err)) == 1
