"""Numbers go wrong in a stage: it says so in one line, or what it writes is finite (trainings: tests/training)."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.sampling.posterior import false_negative_posterior
from pipeline.sampling.statistics import SimilarityStatistics
from tests.stages.running import STAGES, finite, invoke, run, work_in, write_tiny_params


def test_the_command_says_so_in_one_line_and_the_run_has_failed(
    heads_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(heads_ready, tmp_path / "clone")
    folder = work_in(tmp_path / "clone", monkeypatch)
    write_tiny_params(folder, model__train="heads", train__lr=1e30, train__epochs=3)
    result = invoke("train")
    assert result.exit_code == 1
    (error,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "training cannot continue" in error
    assert not (folder / "train/run.json").exists()


def test_equal_similarities_have_no_variance_and_a_posterior_all_the_same() -> None:
    statistics = SimilarityStatistics()
    for _ in range(3):
        statistics.update(torch.eye(4) * 0.5)
    assert float(statistics.positive.variance) == float(statistics.negative.variance) == 0
    posterior = false_negative_posterior(
        torch.linspace(-1, 1, 41), statistics.positive, statistics.negative, prior=10_000
    )
    assert posterior.isfinite().all()
    assert ((posterior >= 0) & (posterior <= 1)).all()


@pytest.mark.parametrize("train", ["towers", "heads"])
def test_splits_of_one_image_go_through_every_stage(
    train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = work_in(tmp_path / "clone", monkeypatch)
    one = {"data__scenes__train": 1, "data__scenes__val": 1, "data__scenes__test": 1, "model__train": train}
    write_tiny_params(folder, **one, evaluate__folds=1)
    run(*STAGES)
    metrics = json.loads(Path("metrics.json").read_text())
    assert finite(metrics["test"]["i2t"])
    assert metrics["test"]["i2t"]["R1"] == metrics["test"]["t2i"]["R1"] == 100
    with open("train/history.csv") as handle:
        assert all(math.isfinite(float(row["train/loss"])) for row in csv.DictReader(handle))
