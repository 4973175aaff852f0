"""Where a run says that it comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAYS = "from pipeline.tracking import origin_tags; print(origin_tags()['code.digest'])"


def code_digest(folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", SAYS], cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.mark.parametrize(
    ("changed", "same"),
    [("pipeline/sampling/strategies.py", False), ("pipeline/tracking/naming.py", True), ("stages/audit.py", True)],
)
def test_the_digest_of_the_code_changes_with_what_metrics_depend_on(changed: str, same: bool, tmp_path: Path) -> None:
    for package in ("pipeline", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    before = code_digest(tmp_path)
    with open(tmp_path / changed, "a") as handle:
        handle.write("# changed")
    assert (code_digest(tmp_path) == before) == same
