"""What README and docs/experiments.md promise works in a clone in which nothing has run yet."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.data.published import write_params
from tests.end_to_end.test_dvc import RESULTS, SMALL, Clone, stages_run
from tests.models.test_pretrained import write_towers
from tests.stages.running import write_empty_store

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def fresh(clone: Clone, tmp_path: Path) -> Clone:
    """A new clone of the commit before the first results. To be quick it takes outputs from the first clone's cache."""
    other = copy.copy(clone)
    other.folder = tmp_path / "fresh"
    clone.say("git", "clone", "--quiet", str(clone.folder), str(other.folder))
    other.say("git", "reset", "--quiet", "--hard", "HEAD~1")
    other.dvc("cache", "dir", "--local", str(clone.folder / ".dvc/cache"))
    write_empty_store(other.folder)
    return other


def test_an_experiment_up_to_one_stage_is_compared_with_a_branch_that_has_no_results(fresh: Clone) -> None:
    assert "Ran experiment(s): judged" in fresh.dvc("exp", "run", "evaluate", "--name", "judged")
    assert "test.rsum" in fresh.dvc("metrics", "diff", "main", "judged")
    fresh.dvc("plots", "diff", "main", "judged")
    assert (fresh.folder / "dvc_plots/index.html").exists()


def test_with_the_first_results_committed_experiments_are_compared_with_them(fresh: Clone) -> None:
    fresh.dvc("repro")
    fresh.say("git", "add", *RESULTS)
    fresh.say("git", "commit", "--quiet", "--message", "The first results")
    assert fresh.say("git", "status", "--porcelain") == ""
    fresh.dvc("exp", "run", "--temp", "--name", "apart", "-S", "audit.queries=1")
    compared = json.loads(fresh.dvc("metrics", "diff", "main", "apart", "--all", "--json"))
    rsum = fresh.metrics()["test"]["rsum"]
    assert compared["metrics.json"]["test.rsum"] == {"old": rsum, "new": rsum, "diff": 0.0}
    fresh.dvc("plots", "diff", "main", "apart")


def test_a_local_tower_that_has_changed_is_read_again(fresh: Clone, tmp_path: Path) -> None:
    image, text = (str(tmp_path / name) for name in write_towers(tmp_path))
    write_params(fresh.folder, **SMALL, model__image=image, model__text=text)
    assert "base" in stages_run(fresh.dvc("repro", "base"))
    assert stages_run(fresh.dvc("repro", "base")) == set()
    changed = {name: tensor + 1 for name, tensor in load_file(f"{image}/model.safetensors").items()}
    save_file(changed, f"{image}/model.safetensors", {"format": "pt"})
    assert stages_run(fresh.dvc("repro", "base")) == {"base"}
    made = load_file(fresh.folder / "models/base/image/model.safetensors")
    assert all(torch.equal(made[name], tensor) for name, tensor in changed.items())
