"""Stages as a user runs them, in a scratch folder and on very little data, without a new interpreter for each."""

from __future__ import annotations

import functools
import importlib
import logging
import math
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.params import flat
from stages.command import ENVIRONMENT
from tests.data.published import write_params

ROOT = Path(__file__).parents[2]
STAGES = ("download", "split", "base", "features", "evidence", "bank", "train", "evaluate", "audit")
EARLIER = "of_an_earlier_run.parquet"
"""A file that is in every output before the stages run."""
OUTSIDE = ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI", "RANK", "WORLD_SIZE")
TINY_TOWERS: dict[str, Any] = {
    "tracking__model": None,  # keeping a model costs most of a second an evaluation
    "base__width": 16,
    "base__layers": 1,
    "base__heads": 2,
    "base__epochs": 0,
    "model__image_size": 32,
    "memory__size": 8,
    "train__epochs": 1,
    "train__batch_size": 4,
}
TINY_SCENES: dict[str, Any] = {
    "data__scenes__train": 12,
    "data__scenes__val": 4,
    "data__scenes__test": 6,
    "data__scenes__size": 32,
}


def free_port() -> int:
    """A port on this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def work_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `folder` the working directory, as a clone is, with a tracking store of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_empty_store(folder)
    return folder


def write_tiny_params(folder: Path, **changes: Any) -> None:
    """The repository's params.yaml with a few scenes and tiny towers; more `changes` as `write_params` takes them."""
    write_params(folder, **(TINY_SCENES | TINY_TOWERS | changes))


def module_of(command: str) -> str:
    """The module behind a stage's or another command's name."""
    return f"{'stages' if command in STAGES else 'commands'}.{command}"


def invoke(stage: str) -> Result:
    """One stage in this process and working directory; a defect's exception goes through."""
    return invoke_with(stage)


def invoke_with(command: str, *arguments: str) -> Result:
    """One command with arguments, as `invoke` runs a stage."""
    main = importlib.import_module(module_of(command)).main
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def start(stage: str, *arguments: str) -> subprocess.Popen[str]:
    """One stage as DVC starts it: an interpreter of its own, in this working directory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module_of(stage), *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def succeed(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process says, having succeeded: its output and its errors."""
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return said, errors


def run(*stages: str) -> str:
    """What the stages print, each having succeeded."""
    said = []
    for stage in stages:
        result = invoke(stage)
        assert result.exit_code == 0, f"{stage}: {result.output}"
        said.append(result.output)
    return "".join(said)


def run_in(folder: Path, *stages: str, **changes: Any) -> Path:
    """`folder`, the stages having run there with tiny parameters and these `changes`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        work_in(folder, monkeypatch)
        write_tiny_params(folder, **changes)
        run(*stages)
    return folder


def refused(stage: str) -> str:
    """The one line with which a stage refuses, having changed no file."""
    before = files_below(Path())
    result = invoke(stage)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1, result.output
    assert files_below(Path()) == before
    return result.output


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk (EFBIG where a disk says ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files_below(folder: Path) -> dict[str, str]:
    """Digests of a folder's files, tracking, locks and checkpoints left out."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix != ".lock"
        and not {".checkpoints", ".tracking", "mlartifacts"} & set(path.parts)
        and not path.name.startswith("mlflow.db")
    }


def finite(report: dict[str, Any]) -> bool:
    """Whether every number in nested metrics is one."""
    return all(map(math.isfinite, flat(report).values()))


def write_empty_store(folder: Path) -> Path:
    """`folder/mlflow.db` with tables and no experiment of ours: making the tables takes seconds, so once a session."""
    path = folder / "mlflow.db"
    path.write_bytes(_empty_store())
    return path


@functools.cache
def _empty_store() -> bytes:
    from mlflow import MlflowClient

    # as in a stage's own process; here MLflow was imported before a stage could set its environment
    logging.getLogger("mlflow").setLevel(ENVIRONMENT["MLFLOW_LOGGING_LEVEL"])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()
