"""DVC and its workers killed, and several experiments at once; `make soak` does this at length."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_dvc import Clone
from tests.faults import killing_dvc, killing_queue
from tests.faults.crowding import crowd, names
from tests.faults.killing import SIGNALS, moments
from tests.faults.killing_dvc import CHANGE, COMMANDS, Moment, Outcome, copied, end_all, in_training, kill_dvc, outcome
from tests.faults.killing_queue import EXPERIMENTS, VICTIMS, kill_queue
from tests.faults.profiles import MANY

pytestmark = pytest.mark.end_to_end

KILLS = MANY // 4
LAST = 0.9  # of a command's time: on a quieter machine than the measured one the end comes earlier


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """A worker without work ends by itself, but not at once."""
    yield
    end_all(tmp_path)


@pytest.fixture(scope="module")
def crowded(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """After three experiments at once."""
    folder = tmp_path_factory.mktemp("crowd")
    other = copied(clone, folder / "crowd")
    crowd(other, 0, number_queued=2)
    yield other
    end_all(folder)


@pytest.fixture(scope="module")
def made(crowded: Clone) -> Outcome:
    """What each of the three made, which no kill may change."""
    refs = {str(value): killing_dvc.ref_of(crowded, name) for name, value in names(0, 2).items()}
    return outcome(crowded, refs)


@pytest.fixture(scope="module")
def moment(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Moment]:
    """One of `KILLS` moments of a command, or of two workers with an experiment each: ""."""

    @functools.cache
    def drawn(command: str) -> list[float]:
        other = copied(clone, tmp_path_factory.mktemp("whole") / "whole")
        seconds = killing_dvc.uninterrupted(other, command) if command else killing_queue.uninterrupted(other)
        end_all(other.folder)
        return moments(KILLS, LAST * seconds, [len(command)])

    return lambda command, number: lambda _: time.sleep(drawn(command)[number])


def test_three_experiments_at_once_are_all_there(crowded: Clone) -> None:
    assert len(crowded.runs()) == 3


def test_a_killed_experiment_run_again_is_as_if_nobody_had_killed_it(
    clone: Clone, made: Outcome, tmp_path: Path
) -> None:
    other = copied(clone, tmp_path / "killed")
    assert kill_dvc(other, "dvc exp run", in_training, signal.SIGKILL, of(made, CHANGE[1]))


@pytest.mark.soak  # four minutes; the kill of one experiment, above, is the same path of the stages
def test_two_killed_workers_started_again_end_as_if_nobody_had_killed_them(
    clone: Clone, made: Outcome, tmp_path: Path
) -> None:
    other = copied(clone, tmp_path / "killed")
    assert kill_queue(other, "everything", in_training, signal.SIGKILL, of(made, *EXPERIMENTS.values()))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("command", COMMANDS)
def test_dvc_is_killed_at_many_moments(
    command: str, number: int, clone: Clone, made: Outcome, moment: Callable[[str, int], Moment], tmp_path: Path
) -> None:
    at, sent = moment(command, number), SIGNALS[number % len(SIGNALS)]
    if not kill_dvc(copied(clone, tmp_path / "killed"), command, at, sent, of(made, CHANGE[1])):
        pytest.skip("it had ended before")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("victims", VICTIMS)
def test_two_workers_are_killed_at_many_moments(
    victims: str, number: int, clone: Clone, made: Outcome, moment: Callable[[str, int], Moment], tmp_path: Path
) -> None:
    at, sent = moment("", number), SIGNALS[number % len(SIGNALS)]
    if not kill_queue(copied(clone, tmp_path / "killed"), victims, at, sent, of(made, *EXPERIMENTS.values())):
        pytest.skip("they had ended before, or ended well")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(1, MANY + 1))
def test_five_experiments_at_once_again_and_again(number: int, crowded: Clone) -> None:
    crowd(crowded, number)


def of(made: Outcome, *cutdowns: float) -> Outcome:
    """The outcome of these alone."""
    return {str(value): made[str(value)] for value in cutdowns}
