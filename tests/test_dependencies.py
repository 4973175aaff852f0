"""Where a killed run is kept: with other code or another key it is another place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import dependencies
from pipeline.dependencies import checkpoint_folder, code_digests

CODE = ("stages/train.py", "pipeline/sampling/__init__.py", "pipeline/sampling/sampler.py", "pipeline/report/page.py")
KEY = "0123456789abcdef" * 4


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository whose stage `train` depends on a file and on a folder of code."""
    (tmp_path / "dvc.yaml").write_text(
        "stages: {train: {deps: [data/split, stages/train.py, pipeline/sampling]}, bank: {deps: [stages/bank.py]}}"
    )
    for name in CODE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    dependencies._code_at_start.cache_clear()
    yield tmp_path
    dependencies._code_at_start.cache_clear()


def place() -> Path:
    """Of a run that starts now."""
    dependencies._code_at_start.cache_clear()
    return checkpoint_folder("train", KEY)


def test_the_folder_lies_below_the_main_repository(root: Path) -> None:
    folder = place()
    assert folder.parent == root.resolve() / ".checkpoints"
    assert re.fullmatch(r"train-[0-9a-f]{20}", folder.name)
    assert folder.is_dir()


def test_another_key_has_another_folder(root: Path) -> None:
    assert checkpoint_folder("train", "f" * 64) != checkpoint_folder("train", KEY)


@pytest.mark.parametrize("name", CODE[:3])
def test_other_code_that_the_stage_depends_on_has_another_folder(name: str, root: Path) -> None:
    before = place()
    (root / name).write_text("2")
    assert checkpoint_folder("train", KEY) == before, "a process runs the code that it began with"
    assert place() != before


@pytest.mark.parametrize("name", [CODE[3], "pipeline/sampling/__pycache__/sampler.pyc"])
def test_other_code_that_it_does_not_depend_on_has_the_same(name: str, root: Path) -> None:
    before = place()
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("2")
    assert place() == before


def test_code_that_is_gone_counts_as_changed(root: Path) -> None:
    (root / CODE[0]).unlink()
    assert code_digests("train", root)[CODE[0]] == ""
    assert code_digests("bank", root) == {"stages/bank.py": ""}
