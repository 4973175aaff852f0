"""Killed at any moment: the same command again ends as if nothing had happened."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.killing import VARIANTS, Kill, Reference, gone, run_whole, seeded_kills, start_warm, try_kill
from tests.faults.killing_dvc import end_all, processes_in
from tests.faults.profiles import MANY
from tests.stages.running import STAGES

pytestmark = pytest.mark.end_to_end

MOMENTS = {
    "towers": dict.fromkeys(STAGES, 1) | {"train": 2, "evaluate": 2},
    "heads and a bank": {"base": 1, "bank": 1, "train": 1, "evaluate": 1},
}
KILLS = [
    (variant, stage, number)
    for variant, stages in MOMENTS.items()
    for stage in stages
    for number in range(stages[stage])
]
SOAKED = [(variant, stage, number) for variant in VARIANTS for stage in STAGES for number in range(MANY)]
TRIES = 4

Whole = Callable[[str], Reference]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a variant makes when nobody kills; each is run once."""
    made: dict[str, Reference] = {}

    def of(variant: str) -> Reference:
        if variant not in made:
            made[variant] = run_whole(tmp_path_factory.mktemp("whole"), **VARIANTS[variant])
        return made[variant]

    return of


@pytest.mark.parametrize(("variant", "stage", "number"), KILLS)
def test_a_killed_stage_ends_like_one_that_was_not(
    variant: str, stage: str, number: int, whole: Whole, tmp_path: Path
) -> None:
    kills = seeded_kills(whole(variant), stage, MOMENTS[variant][stage], seed=6)
    ends_well(kills[number], whole(variant), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize(("variant", "stage", "number"), SOAKED)
def test_killed_at_many_moments(variant: str, stage: str, number: int, whole: Whole, tmp_path: Path) -> None:
    """Every fourth over an earlier run's outputs, every fifth with its second start killed too."""
    reference = whole(variant)
    kill = seeded_kills(reference, stage, MANY, seed=0)[number]
    again = reference.seconds[stage] / 2 if number % 5 == 4 else None
    landed, problems = try_kill(replace(kill, over=number % 4 == 3, again=again), reference, tmp_path / "clone")
    assert problems == []
    if not landed:
        pytest.skip("it had ended before")


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_stage_that_is_killed_twice_ends_like_one_that_was_not(stage: str, whole: Whole, tmp_path: Path) -> None:
    reference = whole("towers")
    (kill,) = seeded_kills(reference, stage, 1, seed=7)
    ends_well(replace(kill, again=reference.seconds[stage] / 2), reference, tmp_path)


@pytest.mark.parametrize("stage", ["train", "evaluate"])  # two outputs each; `_take_place` renames those of all stages
def test_a_stage_that_is_killed_while_it_replaces_its_outputs_ends_like_one_that_was_not(
    stage: str, whole: Whole, tmp_path: Path
) -> None:
    reference = whole("towers")
    number = (signal.SIGKILL, signal.SIGTERM)[STAGES.index(stage) % 2]
    ends_well(Kill(stage, number, 0.0, over=True, between=True), reference, tmp_path)


def test_processes_that_prepare_batches_end_with_a_training_that_is_killed(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(whole("heads and a bank").before["train"], folder)
    process = start_warm("train", folder)
    assert process.pid is not None
    while len(list(processes_in(folder))) < 3:  # here a fork server makes the worker: not a child of the training's
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    ended = gone(process.pid)
    end_all(folder)
    assert ended


def ends_well(kill: Kill, reference: Reference, folder: Path) -> None:
    """A kill that came too late, as on a machine that is less busy by now, or before it could be heeded is tried again.

    Then in the middle, and ever earlier.
    """
    for number in range(TRIES):
        landed, problems = try_kill(kill, reference, folder / str(number))
        assert problems == [], kill
        if landed:
            return
        again = None if kill.again is None else kill.again / 2
        kill = replace(kill, seconds=reference.seconds[kill.stage] / 2 ** (number + 1), again=again)
    pytest.fail(f"{kill.stage} ended before it was killed")
