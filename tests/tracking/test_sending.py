"""Journals: damaged ones are refused by name, and each goes to the store that it was written for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.errors import InputError
from pipeline.tracking import Point, Tracker
from pipeline.tracking.journal import Journal, journals
from pipeline.tracking.store import reason, without_password
from tests.faults.mutations import mutated
from tests.stages.running import invoke, work_in, write_empty_store

PARAMS = {"memory.size": 8}
AWAY = "http://127.0.0.1:9"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in(tmp_path / "clone", monkeypatch)


def told(key: str = "k") -> Path:
    """The journal of a training whose store is out of reach."""
    tracker = Tracker("ours")
    tracker.begin(key, "fne", PARAMS, {"git.commit": "c0ffee"})
    tracker.log([Point("train/loss", 1.0, 1, 1000)])
    Path("metrics.json").write_text("{}")
    tracker.artifact(Path("metrics.json"))
    tracker.data_set("scenes", "training", "abc", {"stage": "download"}, {"images": 1})
    tracker.keep_model("kept", "pipeline.serving", {"trained": Path("models")}, {"caption": "a dog"}, 3)
    tracker.finish()
    tracker.close()
    return Journal.of("train", key).path


def runs_in(uri: str) -> list[str]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("ours")
    return [run.info.status for run in client.search_runs([found.experiment_id])] if found else []


@pytest.fixture
def other(tmp_path: Path, clone: Path) -> str:
    """Another store, where stages keep their record."""
    (tmp_path / "other").mkdir()
    return f"sqlite:///{write_empty_store(tmp_path / 'other')}"


def unreachable(uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal for the store `uri` that it has not got."""

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise OSError("no route")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Path("models").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as context:
        context.setattr("pipeline.tracking.run.Delivery", fail)
        context.setattr("pipeline.tracking.sending.Delivery", fail)
        return told()


def test_the_printed_command_sends_to_the_same_store_from_another_terminal(
    other: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = unreachable(other, monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = invoke("sync")
    assert (result.exit_code, result.output) == (0, f"{journal.name}: sent\n")
    assert runs_in(other) == ["FINISHED"]
    assert runs_in(f"sqlite:///{clone}/mlflow.db") == []


@pytest.mark.parametrize("for_another", [True, False])
def test_sync_refuses_a_journal_for_another_store_than_the_environment_names(
    for_another: bool, other: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = unreachable(other if for_another else "", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    kept = journal.read_bytes()
    result = invoke("sync")
    assert result.exit_code == 1
    named = other if for_another else "the main repository's mlflow.db"
    assert result.output.startswith(
        f"error: {journal}: this record is for {named}, and MLFLOW_TRACKING_URI names {AWAY}"
    )
    assert result.output.count("\n") == 1
    assert journal.read_bytes() == kept


def test_no_password_is_written_down_or_printed(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    Path("models").mkdir()
    journal = told()
    said = capfd.readouterr().err + invoke("sync").output
    assert "secret" not in said + journal.read_text()
    assert "set as now: its password is not kept" in said
    assert json.loads(journal.read_text().splitlines()[0])["store"] == AWAY
    assert reason(OSError("to http://me:secret@h/api"), "http://me:secret@h/") == "to http://h/api"
    assert without_password("sqlite:////a/b@c/mlflow.db") == "sqlite:////a/b@c/mlflow.db"


@pytest.mark.parametrize("password", ["se/cret", "se?cret", "se#cret", "se[cret", "1/cret"])
def test_a_password_that_is_not_escaped_is_neither_written_down_nor_printed(
    password: str, clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{password}@127.0.0.1:9/base")
    monkeypatch.setattr("pipeline.tracking.sending.LONGER_PATIENCE", {})
    Path("models").mkdir()
    journal = told()
    said = capfd.readouterr().err + invoke("sync").output
    assert "cret" not in said + journal.read_text()
    assert f"MLflow at {AWAY}/base failed (its user and password need %2F for /" in said


def test_what_a_server_or_a_journal_says_does_not_reach_the_terminal_as_an_escape(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise OSError("\x1b]0;owned\x07 bad")

    Path("models").mkdir()
    with pytest.MonkeyPatch.context() as context:
        context.setattr("pipeline.tracking.run.Delivery", refuse)
        context.setattr("pipeline.tracking.sending.Delivery", refuse)
        path = told()
        said = capfd.readouterr().err + invoke("sync").output
    assert said.count("\\x1b]0;owned\\x07 bad") == 3, "the warning, at the stage's end, and by the command"
    first, *later = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps({**json.loads(first), "store": "http://\x1b]0;owned\x07"}) + "\n", *later]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", AWAY)
    said += invoke("sync").output
    assert said.count("\\x1b]0;owned\\x07") == 4
    assert "\x1b" not in said


def test_one_bad_journal_keeps_no_later_one_here(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("models").mkdir()
    unreachable("", monkeypatch)
    bad = Journal.of("train", "another").path
    bad.write_text("{}\n")
    result = invoke("sync")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "train-k.jsonl: sent",
        f"error: {bad}: line 1 is no entry of a journal; delete the file to give its record up",
    ]


def test_what_a_stage_goes_on_in_is_sent_before_it(clone: Path) -> None:
    for stage in ("train", "evaluate", "audit"):
        Journal.of(stage, "k").path.write_text("")
    assert [journal.stage for journal in journals()] == ["train", "evaluate", "audit"]


def test_a_report_first_sends_the_evaluation_that_it_is_of(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.MonkeyPatch.context() as context:
        context.setattr("pipeline.tracking.run.Delivery", None)
        context.setattr("pipeline.tracking.sending.Delivery", None)
        tracker = Tracker("ours")
        tracker.continue_for_evaluation("k", "e", "fne", PARAMS, {})
        tracker.log([Point("test/rsum", 100.0, 1, tracker.began)])
        tracker.finish()
        tracker.close()
    report = Tracker("ours")
    assert report.find_evaluation("e")
    (clone / "index.html").write_text("<p>")
    report.artifact(clone / "index.html", "report")
    report.finish()
    report.close()
    assert not journals()
    assert runs_in(f"sqlite:///{clone}/mlflow.db") == ["FINISHED"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a journal with every kind of entry."""
    with pytest.MonkeyPatch.context() as context:
        work_in(tmp_path_factory.mktemp("written"), context)
        return unreachable("", context).read_bytes().splitlines(keepends=True)


def test_a_damaged_journal_is_read_or_refused_by_name(written: list[bytes], clone: Path) -> None:
    journal = Journal.of("train", "k")

    @settings(max_examples=int(os.environ.get("FAULT_EXAMPLES", "100")), deadline=None, derandomize=True)
    @given(st.sampled_from(range(len(written))), st.data())
    def tries(number: int, data: st.DataObject) -> None:
        line = data.draw(mutated({"line.json": written[number]}))["line.json"]
        journal.path.write_bytes(b"".join([*written[:number], line.rstrip(b"\n") + b"\n", *written[number + 1 :]]))
        try:
            assert journal.entries()
        except InputError as error:
            assert str(error).startswith(f"{journal.path}: line ")

    tries()


BEGINNING = {
    **{"do": "training", "key": "k", "name": "fne", "params": {}, "tags": {}, "token": "t", "time": 1},
    **{"place": "p", "replaces": None, "afresh": False, "experiment": "ours", "store": None},
}


@pytest.mark.parametrize(
    ("beginning", "later", "told"),
    [
        ({}, [{"do": "artifact", "path": "../../secret", "folder": None}], "line 2 is no entry"),
        ({}, [{"do": "artifact", "path": "0/gone.json", "folder": None}], "gone.json is missing"),
        ({}, [{"do": "metrics", "points": [["a\nb", 1.0, 1, 1]]}], "did not take it"),
        ({}, [{"do": "metrics", "points": [["a", 1.0, 2**70, 1]]}], "line 2 is no entry"),
        ({}, [{"do": "finish", "status": "DONE", "time": 1}], "line 2 is no entry"),
        ({}, [{"do": "metrics", "points": 3}], "line 2 is no entry"),
        ({"key": "k' or '1' = '1"}, [], "line 1 is no entry"),
        ({"experiment": None}, [], "line 1 is no entry"),
        ({"store": "gopher://nowhere"}, [], "did not take it"),
        ({"params": {"a b?": 1}}, [], "did not take it"),
        ({"do": "report"}, [], "line 1 is no entry"),
    ],
)
def test_sync_ends_in_one_error_that_names_a_damaged_journal(
    beginning: dict[str, Any], later: list[Any], told: str, clone: Path
) -> None:
    path = Journal.of("train", "k").path
    lines = [json.dumps(entry) + "\n" for entry in ({**BEGINNING, **beginning}, *later)]
    path.write_text("".join(lines))
    result = invoke("sync")
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {path}: ")
    assert told in result.output
    assert result.output.count("\n") == 1
    assert path.read_text() == "".join(lines)


def test_sync_names_a_journal_that_is_no_text(clone: Path) -> None:
    path = Journal.of("train", "k").path
    path.write_bytes(b"\xff\xfe\n")
    result = invoke("sync")
    assert result.output == f"error: {path}: line 1 is no entry of a journal; delete the file to give its record up\n"
