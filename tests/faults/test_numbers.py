"""Numbers go wrong in a stage: it says so in one line, or what it writes is finite (trainings: tests/training)."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

from tests.stages.running import STAGES, finite, invoke, run, write_tiny_params


def test_the_command_says_so_in_one_line(heads_clone: Path) -> None:
    write_tiny_params(heads_clone, model__train="heads", train__lr=1e30, train__epochs=3)
    result = invoke("train")
    assert result.exit_code == 1
    (error,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "training cannot continue" in error
    assert not (heads_clone / "train/run.json").exists()


def test_splits_of_one_image_go_through_every_stage(clone: Path) -> None:
    one = {"data__scenes__train": 1, "data__scenes__val": 1, "data__scenes__test": 1}
    write_tiny_params(clone, **one, evaluate__folds=1)
    run(*STAGES)
    metrics = json.loads(Path("metrics.json").read_text())
    assert finite(metrics["test"]["i2t"])
    assert metrics["test"]["i2t"]["R1"] == metrics["test"]["t2i"]["R1"] == 100
    with open("train/history.csv") as handle:
        assert all(math.isfinite(float(row["train/loss"])) for row in csv.DictReader(handle))
