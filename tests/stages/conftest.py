"""Where a copy of a data set is downloaded to: an empty clone, and an empty cache of the hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.data.published import unpin
from tests.stages.running import work_in


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run stages in, as a clone is."""
    unpin(monkeypatch)
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
