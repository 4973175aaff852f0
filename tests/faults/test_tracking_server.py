"""The tracking server fails: a training goes on, one warning is printed, and nothing that it was to be told is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import Point, Tracker
from pipeline.tracking.patience import Patience
from tests.faults.record import artifacts, figures, flattened, models, runs, told_everything, warnings
from tests.faults.stores import Gate, gate, mlflow_server
from tests.stages.running import invoke, run, run_in, start, work_in, write_empty_store, write_tiny_params

PARAMS = {"memory.size": 8}
LONGEST_WAIT = 5.0  # seconds in all, the bound
FAILURES = ("500", "hang", "cut")
TARDY = ("slow", "drip", "hang")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    write_empty_store(folder)
    with mlflow_server(folder) as port:
        yield port


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage before training has run."""
    stages = ("download", "split", "base", "features", "bank")
    changes = {"model__train": "heads", "train__epochs": 2, "tracking__model": None}
    return run_in(tmp_path_factory.mktemp("ready"), *stages, **changes)


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
        # the real server shares a busy machine with the tests; how long is waited is tested with a gate alone
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield opened


@pytest.mark.parametrize("behaviour", FAILURES)
def test_a_server_that_never_answers_costs_little_and_is_told_later(
    behaviour: str, clone: Path, tmp_path: Path, before: Gate, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before.behaviour = behaviour
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    said = run("train")
    assert len(warnings(said)) == 1
    assert said.count("python -m commands.sync") == 2, "in the warning, and when the stage ends"
    assert runs(server, tmp_path.name) == []
    before.behaviour = "pass"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for _ in range(2):
        run("sync")
    assert told_everything(server, tmp_path.name, clone)
    assert run("sync") == "nothing to send: MLflow has every record\n"


@pytest.mark.parametrize(
    ("behaviour", "number"), [("cut", 1), ("500", 3), ("hang", 4), ("hang", 8), ("500", 8), ("cut", 9)]
)
def test_a_server_that_dies_at_any_request_and_comes_back_is_told_when_the_stage_ends(
    behaviour: str, number: int, clone: Path, tmp_path: Path, before: Gate, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tracking.patience.IN_ALL", 20.0)  # with a real server on a busy machine
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    finish = Tracker.finish

    def back_at_the_end(self: Tracker, status: str = "FINISHED") -> None:
        before.behaviour, before.after = "pass", None
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        finish(self, status)

    monkeypatch.setattr(Tracker, "finish", back_at_the_end)
    before.after = (behaviour, number)
    said = run("train")
    assert len(warnings(said)) == 1
    assert "MLflow is back: the whole record was sent" in said
    assert not list(clone.glob(".tracking/*.jsonl"))
    assert told_everything(server, tmp_path.name, clone)


def a_run_of_a_stage() -> tuple[Tracker, float]:
    """All that a training tells, and for how many seconds it was held up."""
    patient = Patience.wait
    held_up = 0.0

    def measured(self: Patience, *arguments: Any) -> Any:
        nonlocal held_up
        began = time.monotonic()
        try:
            return patient(self, *arguments)
        finally:
            held_up += time.monotonic() - began

    with pytest.MonkeyPatch.context() as context:
        context.setattr(Patience, "wait", measured)
        tracker = Tracker("ours")
        tracker.begin("k", "fne", PARAMS, {})
        for context_name in ("training", "validation"):
            tracker.data_set("scenes", context_name, "abc", {"stage": "download"}, {"images": 1})
        for step in range(50):
            tracker.log([Point("train/loss", 1.0, step, 1000 + step)])
        tracker.artifact(Path("params.yaml"))
        tracker.finish()
        tracker.close()
    return tracker, held_up


@pytest.mark.parametrize("seconds", [0.3, 1.6])
@pytest.mark.parametrize("behaviour", TARDY)
@pytest.mark.parametrize("number", [1, 4])
def test_a_server_that_is_slow_costs_less_than_five_seconds_in_all(
    number: int, behaviour: str, seconds: float, clone: Path, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured where requests are waited for: how busy the machine is adds little to that."""
    for name in ("TIMEOUT", "MAX_RETRIES"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    with gate(server) as tardy:
        tardy.seconds, tardy.after = seconds, (behaviour, number)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tardy.uri)
        tracker, held_up = a_run_of_a_stage()
        assert held_up < LONGEST_WAIT
        assert tracker.failed
    (journal,) = clone.glob(".tracking/*.jsonl")
    assert journal.read_text().count('"train/loss"') == 50, "every figure is kept here"


def test_a_server_that_drips_an_upload_is_given_up(clone: Path, server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with gate(server) as tardy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tardy.uri)
        tracker = Tracker("drips")
        tracker.begin("k", "fne", PARAMS, {})
        tardy.behaviour, tardy.seconds = "drip", 0.2
        began = time.monotonic()
        tracker.artifact(Path("params.yaml"))
        tracker.finish()
        tracker.close()
        assert tracker.failed
        assert time.monotonic() - began < 2 * LONGEST_WAIT, "the bound itself is measured above"


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
    metrics = json.loads((clone / "metrics.json").read_text())
    expected = flattened(metrics)
    assert {name: found.data.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert {name for name in found.data.metrics if name.startswith(("test/", "last/"))} == set(expected)
    kept = artifacts(found, tmp_path / "fetched")
    written = {"metrics.json": clone / "metrics.json"} | {path.name: path for path in (clone / "evaluation").iterdir()}
    assert {"metrics.json", "similarity.png", "ranks.parquet"} <= set(kept)
    assert kept == {name: written[name].read_bytes() for name in kept}
    assert not [path for path in clone.glob(".tracking/**/*") if path.suffix not in (".lock", "") or path.is_dir()]


def test_a_journal_that_is_sent_twice_changes_nothing(clone: Path, tmp_path: Path, before: Gate, server: int) -> None:
    """As when `commands.sync` is killed after the last request and before it removes the journal."""
    write_tiny_params(
        clone,
        **{"model__train": "heads", "train__epochs": 2},
        **{"tracking__model": tmp_path.name, "tracking__experiment": tmp_path.name},
    )
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
        kept = artifacts(found, tmp_path / "fetched")
        states.append((found.to_dictionary(), told, kept, models(found, tmp_path.name)))
    assert states[0] == states[1]
    assert [len(part) for part in states[1][3]] == [1, 1], "one model, registered once"


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
    monkeypatch.setattr("pipeline.tracking.sending.LONGER_PATIENCE", {})
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
    monkeypatch.setattr("pipeline.tracking.patience.SLOW", 0.0)
    tracker = Tracker("slow")
    tracker.begin("k", "fne", PARAMS, {})
    monkeypatch.setattr(tracker._patience, "_limit", 0.0)
    asked = len(before.asked)
    for step in range(20):
        tracker.log([Point("train/loss", 1.0, step, 1000 + step)])
    assert len(before.asked) == asked, "no more is waited for"
    tracker.finish()
    tracker.close()
    (found,) = runs(server, "slow")
    assert sum(figures(server, found.info.run_id, ["train/loss"]).values()) == 20
    assert len(warnings(capfd.readouterr().err)) == 1


def test_a_stage_of_its_own_process_prints_one_warning(
    clone: Path, before: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    before.close()  # nobody listens any more
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    process = start("train")
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert [line for line in (out + error).splitlines() if "warning" in line.lower()] == warnings(error)
    assert len(warnings(error)) == 1


def test_a_loss_that_is_no_number_ends_the_run_as_failed(
    clone: Path, tmp_path: Path, before: Gate, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_params(
        clone,
        **{"model__train": "heads", "train__epochs": 2, "train__lr": 1e30, "train__clip": 1e30},
        **{"tracking__experiment": tmp_path.name},
    )
    result = invoke("train")
    assert result.exit_code == 1
    assert "training cannot continue" in result.output
    assert [found.info.status for found in runs(server, tmp_path.name)] == ["FAILED"]


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_sigterm_ends_a_training_as_killed_and_an_evaluations_own_run_too(
    clone: Path, tmp_path: Path, before: Gate, server: int
) -> None:
    write_tiny_params(
        clone,
        **{"model__train": "heads", "train__epochs": 2000},
        **{"tracking__model": None, "tracking__experiment": tmp_path.name},
    )
    process = start("train")
    until(lambda: any(found.data.metrics for found in runs(server, tmp_path.name)), process)
    process.terminate()
    process.communicate(timeout=120)
    assert [found.info.status for found in runs(server, tmp_path.name)] == ["KILLED"]


def test_sigterm_ends_the_run_that_an_evaluation_made(clone: Path, tmp_path: Path, before: Gate, server: int) -> None:
    """After a `dvc pull`: no run here has trained. The server is slow from the sixth request on, to be in time."""
    write_tiny_params(
        clone, model__train="heads", train__epochs=2, tracking__model=None, tracking__experiment="elsewhere"
    )
    run("train")
    write_tiny_params(
        clone, model__train="heads", train__epochs=2, tracking__model=None, tracking__experiment=tmp_path.name
    )
    before.asked.clear()
    before.after, before.seconds = ("slow", 6), 3.0
    process = start("evaluate")
    until(lambda: len(before.asked) >= 6, process)
    process.terminate()
    time.sleep(0.5)
    before.behaviour = "pass"
    process.communicate(timeout=120)
    assert [found.info.status for found in runs(server, tmp_path.name)] == ["KILLED"]
