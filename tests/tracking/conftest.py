"""No test is more patient with a server because of the one before it."""

from __future__ import annotations

import pytest

from pipeline.tracking.store import LONGER_PATIENCE, PATIENCE


@pytest.fixture(autouse=True)
def default_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's bounds unset, now and afterwards: the tracker and `commands.sync` set them for their process."""
    for name in {**PATIENCE, **LONGER_PATIENCE}:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
