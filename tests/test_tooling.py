"""The set-up keeps its promises: everything pinned, plots without the internet, code tracked and outputs not."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS}


def test_every_constraint_is_one_version_and_no_address() -> None:
    assert [line for line in CONSTRAINTS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_every_requirement_is_pinned() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    assert {canonicalize_name(Requirement(line).name) for group in groups for line in group} <= PINNED


def test_the_build_backend_is_the_pinned_one() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(CONSTRAINTS)


def test_installing_the_project_installs_none_of_its_code() -> None:
    assert PROJECT["tool"]["setuptools"] == {"packages": [], "py-modules": []}


def test_the_page_for_plots_loads_nothing() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    page = (ROOT / ".dvc" / config["plots"]["html_template"].strip()).read_text()
    assert "{plot_divs}" in page
    assert "{scripts}" not in page  # DVC would put its addresses there
    assert re.findall(r"<(?:script|link|iframe)\b[^>]*\b(?:src|href)\s*=", page) == []


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A new git repository with this project's ignore files."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    for name in (".gitignore", ".dvc/.gitignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def ignored(repository: Path, path: str) -> bool:
    return subprocess.run(["git", "-C", repository, "check-ignore", "--quiet", path], check=False).returncode == 0


@pytest.mark.parametrize(
    "path",
    [
        *(
            "pipeline/data/splits/format.py",
            "pipeline/models/towers.py",
            "pipeline/report/gallery.py",
            "stages/train.py",
        ),
        *("tests/data/test_splits.py", "metrics.json", "dvc.lock", ".dvc/config", ".dvc/plots/offline.html"),
    ],
)
def test_git_keeps(tracked: Path, path: str) -> None:
    assert not ignored(tracked, path)


@pytest.mark.parametrize(
    "path",
    [
        *("data/raw/images.zip", "models/base/model.safetensors", "report/index.html", "train/history.csv"),
        *(".checkpoints/a/state", ".downloads/a.zip", "mlflow.db", "mlflow.db-wal", "mlartifacts/1"),
        *(".dvc/cache/files", ".dvc/tmp/exps", ".dvc/config.local"),
        *(".venv/bin/python", "pipeline/__pycache__/params.cpython-311.pyc"),
    ],
)
def test_git_leaves_out(tracked: Path, path: str) -> None:
    assert ignored(tracked, path)


@pytest.mark.whole
@pytest.mark.parametrize("there", [True, False])
def test_the_environment_may_be_a_link_to_another_disk(there: bool, tmp_path: Path) -> None:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    disk = tmp_path / "disk"
    if there:
        disk.mkdir()
    (tmp_path / ".venv").symlink_to(disk)
    installs_nothing = ("PIP=true", f"PYTHON={sys.executable}")
    subprocess.run(["make", "-C", tmp_path, ".venv/.pipeline-installed", *installs_nothing], check=True)
    assert (disk / "bin/python").exists()
