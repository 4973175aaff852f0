"""A folder in which every stage has run, once for all modules."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stages.running import STAGES, run_in, work_in


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run."""
    return run_in(tmp_path_factory.mktemp("finished"), *STAGES)


@pytest.fixture
def ready(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(finished, tmp_path / "clone")
    return work_in(tmp_path / "clone", monkeypatch)
