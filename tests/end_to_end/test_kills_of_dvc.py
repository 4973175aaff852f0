"""DVC and its workers killed in a training, and three at once; `make soak` does this at length."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_dvc import Clone
from tests.faults.crowding import crowd, names
from tests.faults.killing_dvc import CHANGE, Killed, Outcome, copied, end_all, in_training, kill_dvc, outcome, ref_of
from tests.faults.killing_queue import EXPERIMENTS, kill_queue

pytestmark = pytest.mark.end_to_end


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """A worker without work ends by itself, but not at once."""
    yield
    end_all(tmp_path)


@pytest.fixture(scope="module")
def crowded(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Outcome]]:
    """Three experiments at once: what was not as it should be, and what each made, which no kill may change."""
    folder = tmp_path_factory.mktemp("crowd")
    other = copied(clone, folder / "crowd")
    problems = crowd(other, 0, number_queued=2)
    yield problems, outcome(other, {str(value): ref_of(other, name) for name, value in names(0, 2).items()})
    end_all(folder)


def test_three_experiments_at_once_are_all_there(crowded: tuple[list[str], Outcome]) -> None:
    problems, _ = crowded
    assert problems == []


def test_a_killed_experiment_run_again_is_as_if_nobody_had_killed_it(
    clone: Clone, crowded: tuple[list[str], Outcome], tmp_path: Path
) -> None:
    _, made = crowded
    expected = {str(CHANGE[1]): made[str(CHANGE[1])]}
    killed = kill_dvc(copied(clone, tmp_path / "killed"), "dvc exp run", in_training, signal.SIGKILL, expected)
    assert killed == Killed(landed=True)


def test_two_killed_workers_started_again_end_as_if_nobody_had_killed_them(
    clone: Clone, crowded: tuple[list[str], Outcome], tmp_path: Path
) -> None:
    _, made = crowded
    expected = {str(value): made[str(value)] for value in EXPERIMENTS.values()}
    killed = kill_queue(copied(clone, tmp_path / "killed"), "everything", in_training, signal.SIGKILL, expected)
    assert killed == Killed(landed=True)
