"""One small pipeline under DVC for all modules: its first `dvc repro` is what costs most."""

from __future__ import annotations

import signal

import pytest

from tests.end_to_end.test_dvc import RESULTS, Clone, stages_run
from tests.stages.running import STAGES

# A shell has what it starts in the background ignore Ctrl-C, and so would DVC and the stages that are told to end.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """After the first `dvc repro`, its outcome committed."""
    clone = Clone(tmp_path_factory.mktemp("dvc"))
    assert stages_run(clone.dvc("repro")) == set(STAGES)
    assert clone.say("git", "status", "--porcelain").split() == ["??", RESULTS[0], "??", RESULTS[1]]
    clone.commit("The first results")
    return clone
