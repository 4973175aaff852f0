"""What a run is called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.tracking import committed_params, run_name

COMMITTED = {
    "seed": 1,
    "memory.size": 1024,
    "sampler.strategy": "fne",
    "sampler.cutdown": 0.2,
    "loss.name": "triplet",
    "train.epochs": 5,
    "base.epochs": 6,
    "model.image": None,
    "tracking.experiment": "fne",
}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "seed 1 · fne triplet"),
        ({"seed": 3, "sampler.cutdown": 0.1}, "cutdown 0.1 · seed 3 · fne triplet"),
        ({"sampler.strategy": "all", "loss.name": "infonce", "memory.size": 0}, "size 0 · seed 1 · all infonce"),
        ({"train.epochs": 9}, "train epochs 9 · seed 1 · fne triplet"),
        ({"model.image": "google/vit"}, "image google/vit · seed 1 · fne triplet"),
        ({"tracking.experiment": "other"}, "seed 1 · fne triplet"),
    ],
)
def test_a_name_says_what_differs_from_the_commit(changes: dict[str, object], name: str) -> None:
    assert run_name(COMMITTED | changes, COMMITTED) == name


def test_dvcs_name_comes_first_and_an_unknown_commit_names_the_usual() -> None:
    assert run_name(COMMITTED, None, "cut-1") == "size 1024 · cutdown 0.2 · seed 1 · fne triplet · cut-1"


def test_the_commits_parameters_are_gits_and_not_the_workspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert committed_params() is None
    (tmp_path / "params.yaml").write_text("seed: 1\nsampler: {cutdown: 0.2}\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "params.yaml").write_text("seed: 2\n")
    assert committed_params() == {"seed": 1, "sampler.cutdown": 0.2}
