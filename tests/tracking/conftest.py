"""One real MLflow server for all tests, each behind a door of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import postgres_trial
from pipeline.tracking.store import SETTINGS
from tests.stages.running import write_empty_store
from tests.tracking import making
from tests.tracking.door import Door


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's bounds unset, now and afterwards: whoever opens a store sets them for the process."""
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with postgres_trial.server(folder, f"sqlite:///{write_empty_store(folder)}", workers=1) as address:
        yield address


@pytest.fixture
def door(server: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """All that the stages see of the server; they give it the time that it needs on a busy machine."""
    with Door(server) as opened:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", opened.uri)
        monkeypatch.setattr(making, "EXPERIMENT", clone.parent.name)
        monkeypatch.setattr("pipeline.tracking.follower.AT_THE_END", 60.0)
        yield opened
        opened.closed.set()
        opened.shutdown()
