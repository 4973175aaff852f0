"""DVC and its workers killed in a training, and three at once; `make soak` does this at length."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_dvc import Clone
from tests.faults import killing_dvc, killing_queue
from tests.faults.crowding import crowd
from tests.faults.killing_dvc import Killed, copied, end_all, in_training

pytestmark = pytest.mark.end_to_end


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """A worker without work ends by itself, but not at once."""
    yield
    end_all(tmp_path)


def test_a_killed_experiment_run_again_is_as_if_nobody_had_killed_it(clone: Clone, tmp_path: Path) -> None:
    expected, _ = killing_dvc.uninterrupted(copied(clone, tmp_path / "whole"), "dvc exp run")
    other = copied(clone, tmp_path / "killed")
    killed = killing_dvc.kill_dvc(other, "dvc exp run", in_training, signal.SIGKILL, expected)
    assert killed == Killed(landed=True)


def test_two_killed_workers_started_again_end_as_if_nobody_had_killed_them(clone: Clone, tmp_path: Path) -> None:
    expected, _ = killing_queue.uninterrupted(copied(clone, tmp_path / "whole"))
    other = copied(clone, tmp_path / "killed")
    killed = killing_queue.kill_queue(other, "everything", in_training, signal.SIGKILL, expected)
    assert killed == Killed(landed=True)


def test_three_experiments_at_once_are_all_there(clone: Clone, tmp_path: Path) -> None:
    assert crowd(copied(clone, tmp_path / "crowd"), 0, number_queued=2) == []
