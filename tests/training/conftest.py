"""Twelve generated scenes, prepared once for both ways of training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stages.running import run_in


@pytest.fixture(scope="session")
def towers_ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage before training has run, for training towers end to end."""
    return run_in(tmp_path_factory.mktemp("towers"), "download", "split", "base", "features", "bank")


@pytest.fixture(scope="session")
def heads_ready(towers_ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for heads over frozen features."""
    folder = tmp_path_factory.mktemp("heads")
    shutil.copytree(towers_ready, folder, dirs_exist_ok=True)
    return run_in(folder, "features", model__train="heads")
