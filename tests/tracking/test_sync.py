"""The copy on a server: whatever the server does, a stage loses nothing, and a few seconds at most."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.errors import InputError
from pipeline.tracking import Copier, Tracker, follower, reason, set_up_view, store_uri, without_password
from tests.stages.running import ROOT, invoke, invoke_with, run, start, write_tiny_params
from tests.tracking import making
from tests.tracking.door import Door
from tests.tracking.making import begun, evaluated, record, runs, steps, trained

LONG = 240.0  # seconds that nothing here takes
AT_THE_END = follower.AT_THE_END

pytestmark = pytest.mark.server


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def all_is_copied(door: Door) -> None:
    """The server gets all that the store has, and a second time changes nothing."""
    door.behaviour, door.fails_at = "pass", 0
    run("sync")
    kept = record(door.uri)
    assert record(store_uri()) == kept != []
    assert run("sync") == f"nothing to copy: MLflow at {door.uri} has every run\n"
    for found in runs():
        MlflowClient(tracking_uri=store_uri()).delete_tag(found.info.run_id, "pipeline.copied")
    assert run("sync").count(": copied\n") == len(kept)
    assert record(door.uri) == kept


@pytest.mark.parametrize("behaviour", ["cut", "500", "hang", "drip"])
def test_a_server_that_fails_costs_a_stage_its_limit_and_loses_nothing(
    behaviour: str, door: Door, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert AT_THE_END < 5
    monkeypatch.setattr(follower, "AT_THE_END", 1.0)
    door.behaviour = behaviour
    tracker = begun()
    until(lambda: door.asked)
    started = time.monotonic()
    tracker.finish()
    assert time.monotonic() - started < LONG / 10, "a request may take 30 s, and these never end"
    said = capfd.readouterr().err
    assert said.startswith(f"warning: MLflow at {door.uri} has not got all of this run (")
    assert said.endswith("Nothing is lost: the next stage copies it, or `python -m commands.sync`\n")
    assert said.count("\n") == 1
    assert runs(door.behind) == []
    all_is_copied(door)


@pytest.mark.parametrize("behaviour", ["cut", "500", "late"])
def test_a_server_that_dies_at_any_request_has_everything_once_when_it_is_back(
    behaviour: str, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    trained()
    evaluated()
    child = evaluated(evaluate_key="other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    copier, complete = Copier(), False
    for number in itertools.count(1):
        door.fail_at(number, behaviour)
        try:
            complete = copier.copy(child.run_id)
            break
        except Exception:  # what MLflow throws is of many kinds
            assert door.asked >= number
    assert complete
    assert number > 10
    all_is_copied(door)


def test_a_run_that_is_there_twice_or_was_replaced_is_deleted_on_the_server(door: Door) -> None:
    """The server did what was asked for only after it was asked again; or a training has started again."""
    begun().finish("KILLED")
    trained(restart=True)
    server, (copy,) = MlflowClient(tracking_uri=door.uri), runs(door.uri)
    assert copy.info.status == "FINISHED"
    tags = {"pipeline.token": copy.data.tags["pipeline.token"]}
    server.create_run(copy.info.experiment_id, copy.info.start_time, tags, copy.info.run_name)
    evaluated()
    all_is_copied(door)


def test_curves_reach_the_server_while_the_stage_runs_and_so_do_earlier_runs(
    door: Door, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert follower.EVERY <= 60
    monkeypatch.setattr(follower, "EVERY", 0.2)
    door.behaviour = "cut"
    trained("earlier")
    door.behaviour = "pass"
    capfd.readouterr()
    tracker = begun()
    both = {"run k": "RUNNING", "run earlier": "FINISHED"}
    until(lambda: {found.info.run_name: found.info.status for found in runs(door.uri)} == both)
    tracker.log_rows([{"step": 7, "train/loss": 0.5}])
    until(lambda: (7, 0.5) in steps(runs(door.uri)[0], "train/loss", door.uri))
    tracker.finish()
    assert capfd.readouterr().err == ""
    assert record(door.uri) == record(store_uri())
    assert "has every run" in run("sync")


def test_the_process_that_copies_ends_with_its_stage(door: Door) -> None:
    door.behaviour = "hang"
    code = "from tests.tracking.making import begun; print(begun()._follower._process.pid, flush=True); input()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=-1, stdout=-1, text=True)
    assert stage.stdout is not None
    child = int(stage.stdout.readline())
    until(lambda: door.asked)
    stage.kill()
    stage.communicate()
    until(lambda: not Path(f"/proc/{child}").exists())


def test_stages_without_a_server_are_one_whole_run_later(heads_ready: Path, clone: Path, door: Door) -> None:
    shutil.copytree(heads_ready, clone, dirs_exist_ok=True)
    names = {"tracking__experiment": making.EXPERIMENT, "tracking__model": making.EXPERIMENT}
    write_tiny_params(clone, model__train="heads", train__epochs=2, **names)
    door.behaviour = "cut"
    assert run("train", "evaluate", "audit").count("warning: ") == 3, "one a stage"
    all_is_copied(door)
    (kept,) = record(door.uri)
    written = [*clone.glob("evaluation/*"), *clone.glob("report/*"), clone / "metrics.json"]
    content, files = {path.name: path.read_text("latin1") for path in written}, dict(kept["files"])
    assert files.keys() >= {"metrics.json", "ranks.parquet", "report/index.html"}
    assert all(content[Path(name).name] == text for name, text in files.items())
    rsum = json.loads((clone / "metrics.json").read_text())["test"]["rsum"]
    assert kept["metrics"]["test/rsum"][0][1] == pytest.approx(rsum, rel=1e-9)
    assert (kept["versions"].keys(), len(kept["models"])) == ({making.EXPERIMENT}, 1)
    assert kept["versions"][making.EXPERIMENT].keys() == {"val_rsum", "val_data"}


def test_sigterm_ends_a_training_as_killed_on_the_server_too(heads_ready: Path, clone: Path, door: Door) -> None:
    shutil.copytree(heads_ready, clone, dirs_exist_ok=True)
    write_tiny_params(clone, model__train="heads", train__epochs=2000, tracking__experiment=making.EXPERIMENT)
    process = start("train")
    until(lambda: runs(door.uri) or process.poll() is not None)
    process.terminate()
    process.communicate(timeout=LONG)
    assert [found.info.status for found in [*runs(), *runs(door.uri)]] == ["KILLED"] * 2


def test_make_ui_waits_for_a_slow_server_also_in_the_process_of_a_stage(door: Door) -> None:
    trained()
    door.behaviour, door.seconds = "slow", 2.5
    door.asked, door.fails_at, door.then = 0, 2, "pass"
    assert "viewStateShareKey" in set_up_view(making.EXPERIMENT)["table"]


def test_no_password_is_printed_or_kept(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/base")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_tiny_params(clone)
    trained()
    said = invoke("sync").output + invoke("compare").output + invoke_with("ui", "--no-open").output
    said += capfd.readouterr().err + str([found.data.tags for found in runs()])
    assert said.count("MLflow at http://127.0.0.1:9/base") == 4
    assert "secret" not in said
    assert without_password("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"
    for user in ("me:se/cret", "me:se?cret", "me:se#cret", "me:[secret"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}@127.0.0.1:9/base")
        with pytest.raises(InputError, match="its user and password need %2F for /") as refused:
            Tracker("ours")
        assert "cret" not in str(refused.value)


def test_what_a_server_says_does_not_reach_the_terminal_as_an_escape() -> None:
    assert reason(OSError("\x1b]0;owned\x07 bad\nmore"), "http://h") == "\\x1b]0;owned\\x07 bad"


def test_a_run_that_the_server_refuses_keeps_no_other_one_here(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MlflowClient(tracking_uri=door.uri)
    server.delete_experiment(server.create_experiment(making.EXPERIMENT))
    trained()
    monkeypatch.setattr(making, "EXPERIMENT", f"{making.EXPERIMENT} restored")
    trained()
    result = invoke("sync")
    assert result.exit_code == 1
    assert result.output.startswith("run k: not copied\nerror: ")
    assert f"was deleted in {door.uri}: restore it on MLflow's page" in result.output
    assert record(door.uri) == record(store_uri())
