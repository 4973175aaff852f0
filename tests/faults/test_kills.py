"""Killed at any moment: the same command again ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killing import Reference, run_whole, seeded_kills, try_kill
from tests.stages.running import STAGES

MOMENTS = dict.fromkeys(STAGES, 1) | {"train": 3, "evaluate": 2}
"""`make soak` tries twenty a stage."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return run_whole(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_ends_like_one_that_was_not(stage: str, reference: Reference, tmp_path: Path) -> None:
    for number, kill in enumerate(seeded_kills(reference, stage, MOMENTS[stage], seed=6)):
        assert try_kill(kill, reference, tmp_path / str(number)) == [], kill
