"""The table of the last evaluation: what it prints, and that it loads nothing heavy for that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.paths import LAST_METRICS, METRICS

ROOT = Path(__file__).parents[2]
SHOWN = (
    "import sys; from commands.show import main; main(standalone_mode=False); "
    "print({'torch', 'mlflow'} & {*sys.modules})"
)


def report(rsum: float) -> dict[str, object]:
    recalls = {"R1": 10.0, "R5": 20.0, "R10": 30.0, "median_rank": 4.0}
    return {"rsum": rsum, "i2t": recalls, "t2i": recalls}


def test_it_prints_both_sets_of_weights_and_loads_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / METRICS).write_text(json.dumps({"test": report(123.4)}))
    (tmp_path / LAST_METRICS).parent.mkdir()
    (tmp_path / LAST_METRICS).write_text(json.dumps(report(111.1)))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {SHOWN}"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "123.4" in ran.stdout
    assert "111.1" in ran.stdout
    assert ran.stdout.endswith("set()\n")
