"""Progress bars: on a terminal only, one at a time."""

from __future__ import annotations

import re
import time

import pytest

from pipeline.progress import progress


def test_nothing_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), label="work", total=3)) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_bar_inside_a_bar_stays_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    seen = [
        (outer, inner)
        for outer in progress(range(2), label="epoch", total=2)
        for inner in progress(range(2), label="validation", total=2)
    ]
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
    drawn = capsys.readouterr().err
    assert "epoch" in drawn
    assert "validation" not in drawn


def test_the_next_bar_is_drawn_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for label in ("first", "second"):
        list(progress(range(1), label=label, total=1))
    assert "second" in capsys.readouterr().err


def test_a_bar_says_rows_a_second(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for _ in progress(range(4), label="images", total=4, rows=1000):
        time.sleep(0.2)
    rates = [int(rate) for rate in re.findall(r"(\d+)/s", capsys.readouterr().err)]
    assert rates and all(rate > 100 for rate in rates)  # batches would be 5 a second
