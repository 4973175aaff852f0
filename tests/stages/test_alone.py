"""DVC's lock, held while a stage works; `tests/end_to_end/test_dvc.py` shows what DVC makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.alone import LOCKS, PREPARING, alone

LOCK = LOCKS / "rwlock"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_the_lock_is_held_meanwhile_and_then_given_back() -> None:
    with alone():
        assert "stage train of" in json.loads(LOCK.read_text())["write"][PREPARING]["cmd"]
    assert PREPARING not in LOCK.read_text()


def test_a_stage_in_a_copy_or_started_by_hand_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    with alone():
        assert not LOCK.exists()


@pytest.mark.parametrize("content", ["", "{", '{"a":'])
def test_a_lock_file_of_which_a_kill_left_half_is_named_and_the_stage_works(
    content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    LOCKS.mkdir(parents=True)
    LOCK.write_text(content)
    with alone():
        pass
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {LOCK} cannot be used")
    assert said.count("\n") == 1


def test_a_lock_that_cannot_be_given_back_fails_no_stage_whose_work_is_done() -> None:
    with alone():
        LOCK.write_text("")


def test_an_error_of_the_stage_goes_through() -> None:
    with pytest.raises(KeyError, match="mine"), alone():
        raise KeyError("mine")
    assert PREPARING not in LOCK.read_text()
