"""Where a run says that it comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAYS = "from pipeline.tracking import origin_tags; print(origin_tags()['code.digest'])"


def code_digest(folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", SAYS], cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_other_code_has_another_digest(tmp_path: Path) -> None:
    for name in ("one", "same", "other"):
        for package in ("pipeline", "stages"):
            shutil.copytree(ROOT / package, tmp_path / name / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "other/pipeline/sampling/weights.py", "w") as handle:
        handle.write("# changed")
    digests = {name: code_digest(tmp_path / name) for name in ("one", "same", "other")}
    assert digests["one"] == digests["same"] != digests["other"]
