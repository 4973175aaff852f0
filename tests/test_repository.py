"""The way back from a detached HEAD: told where DVC left one, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.files import atomic_folder, write_text
from pipeline.repository import way_back

COMMIT = "be3d1f87a2118b0392c7e1d3da158857b6fd3cfb"
MOVES = f"{COMMIT} {COMMIT} a <a@b> 1 +0000\tcheckout: moving from trunk to {COMMIT}\n"
RESTORES = f"{COMMIT} {COMMIT} a <a@b> 1 +0000\tdvc: Restore HEAD to 'trunk'\n"


def write_git(folder: Path, head: str, log: str, *, running: bool) -> None:
    (folder / ".git/refs/heads").mkdir(parents=True)
    (folder / ".git/refs/heads/trunk").write_text(COMMIT)
    (folder / ".git/logs").mkdir()
    (folder / ".git/logs/HEAD").write_text(log)
    (folder / ".git/HEAD").write_text(head)
    if running:
        (folder / ".git/refs/exps/exec").mkdir(parents=True)
        (folder / ".git/refs/exps/exec/EXEC_HEAD").write_text(COMMIT)


@pytest.mark.parametrize(
    ("head", "log", "running", "told"),
    [
        (COMMIT, MOVES, True, True),
        (COMMIT, MOVES + RESTORES + MOVES, False, True),  # the next experiment has removed DVC's own reference
        ("ref: refs/heads/trunk", MOVES + RESTORES, True, False),
        (COMMIT, MOVES, False, False),  # a person has checked out a commit
        (COMMIT, "", True, False),  # nobody knows where from
    ],
)
def test_the_way_back_is_told_where_dvc_left_the_branch(
    head: str, log: str, running: bool, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    write_git(tmp_path, head, log, running=running)
    said = way_back(tmp_path)
    assert (said is not None) == told
    if said is not None:
        assert said.endswith("git checkout trunk")
    monkeypatch.setenv("DVC_EXP_NAME", "tried")
    assert way_back(tmp_path) is None, "while an experiment runs it is as it should be"


def test_without_git_nothing_is_said(tmp_path: Path) -> None:
    assert way_back(tmp_path) is None


def test_half_files_of_processes_that_are_no_more_are_swept(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = [tmp_path / f".out.{gone.stdout.decode().strip()}.part", tmp_path / f".out.{os.getppid()}.part"]
    other = tmp_path / f".another{left[0].name.removeprefix('.out')}"
    for path in (*left, other):
        path.write_text("half")
    write_text(tmp_path / "out", "whole")
    assert not left[0].exists()
    assert left[1].exists(), "its process is still writing"
    assert other.exists(), "another output's"
    folder = tmp_path / left[0].name.replace(".part", ".x1_y.part").replace(".out", ".folder")
    folder.mkdir()
    with atomic_folder(tmp_path / "folder") as made:
        (made / "file").write_text("whole")
    assert not folder.exists()


ORPHAN = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
STAGE = """
import time
from stages.command import stage
@stage
def work():
    print("working", flush=True)
    time.sleep(600)
work()
"""


@pytest.mark.parametrize("by_dvc", [True, False])
def test_a_stage_ends_with_the_dvc_that_started_it(by_dvc: bool) -> None:
    root = Path(__file__).parent.parent
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": str(root)} | ({"DVC_STAGE": "train"} if by_dvc else {})
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, STAGE], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.wait()
    try:
        give_up = time.monotonic() + (30 if by_dvc else 0.5)
        while running(pid) and time.monotonic() < give_up:
            time.sleep(0.05)
        assert running(pid) != by_dvc
    finally:
        if running(pid):
            os.kill(pid, signal.SIGKILL)


def running(pid: int) -> bool:
    """Whether it works: an orphan that has ended may wait for somebody to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
