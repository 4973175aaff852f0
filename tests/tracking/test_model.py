"""A model in MLflow's format, and which version of a registered one is the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tracking import store_uri
from pipeline.tracking.model import describe_version, pack_model
from pipeline.tracking.store import open_client


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


def test_versions_compete_for_best_on_the_validation_data_of_the_newest(clone: Path) -> None:
    client = open_client(store_uri())
    client.create_registered_model("fne")
    found = []
    for data, rsum in (("scenes", 500.0), ("flickr8k", 300.0), ("flickr8k", 290.0), ("scenes", 510.0)):
        version = client.create_model_version("fne", "file:///nowhere").version
        describe_version(client, "fne", str(version), "", rsum, data)
        found.append(str(client.get_model_version_by_alias("fne", "best").version))
    assert found == ["1", "2", "2", "4"]
