"""Where a run says that it comes from."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.dependencies import ROOT, code_of_metrics
from pipeline.tracking import origin_tags


def test_the_digest_of_the_code_changes_with_what_metrics_depend_on(tmp_path: Path) -> None:
    def changed(name: str) -> str:
        with open(tmp_path / name, "a") as handle:
            handle.write("# changed")
        return code_of_metrics(tmp_path)

    for package in ("pipeline", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    assert changed("pipeline/tracking/naming.py") == changed("stages/audit.py") == origin_tags()["code.digest"]
    assert changed("pipeline/sampling/strategies.py") != origin_tags()["code.digest"]
