"""A model in MLflow's format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tracking.model import pack_model


@pytest.mark.parametrize(("kind", "named"), [("timm_wrapper", True), ("vit", False)])
def test_timm_is_required_by_a_tower_of_timm_alone(kind: str, named: bool, tmp_path: Path) -> None:
    (tmp_path / "base/image").mkdir(parents=True)
    (tmp_path / "base/image/config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "trained").mkdir()
    folders = {name: tmp_path / name for name in ("trained", "base")}
    packed = pack_model(tmp_path / "made", "pipeline.serving", folders, {"caption": "a dog"})
    required = (packed / "requirements.txt").read_text()
    assert "transformers==" in required
    assert ("timm==" in required) == named
