"""Pairs are weighted in trainings of towers of either family, and of heads over frozen features."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stages.running import STAGES, run, run_in, work_in, write_tiny_params
from tests.training.making import open_tiny_training


@pytest.fixture(scope="module", params=["vit_bert", "clip"])
def banked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Noisy scenes with small towers of either family and a bank: where they are ready, and their parameters."""
    changes: dict[str, object] = {
        "model__family": request.param,
        "pairs__weighting": "npc",
        "pairs__bank_epochs": 2,
        "pairs__batch_size": 16,
        "pairs__clean_threshold": 0.5,
        "data__noise__ratio": 0.4,
        "loss__temperature": "learned",
        "train__epochs": 2,  # the first warms up
    }
    return run_in(tmp_path_factory.mktemp(request.param), *STAGES[:6], **changes), changes


def test_pair_weights_go_with_towers_of_either_family(banked: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    ready, changes = banked
    training = open_tiny_training(ready, tmp_path, **changes, loss__name="infonce", memory__size=64)
    assert training.impact is not None
    at = training.run()
    weighted = [row for row in at.history if "pairs/weight_mean" in row]
    assert {row["epoch"] for row in weighted} == {1}
    assert bool(training.impact.weight_M.isfinite().all())
    assert 0 <= at.history[-1]["pairs/weight_auc"] <= 1
    assert 0 <= at.history[-1]["sampler/false_negative_share"] <= 1


def test_pair_weights_over_frozen_features(
    banked: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, changes = banked
    shutil.copytree(ready, tmp_path / "heads")
    work_in(tmp_path / "heads", monkeypatch)
    write_tiny_params(tmp_path / "heads", **changes, model__train="heads")
    run("features", "evidence", "bank", "train", "evaluate")
