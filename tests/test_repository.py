"""The way back from a detached HEAD: told where DVC left one, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def test_the_way_back_is_told_where_git_has_packed_its_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    clone = left_by_dvc(tmp_path / "clone")
    git(clone, "pack-refs", "--all")
    assert not (clone / ".git/refs/heads/trunk").exists()
    said = way_back(clone)
    assert said is not None
    assert said.endswith("git checkout trunk")
    git(clone, "checkout", "--quiet", "trunk")
    assert way_back(clone) is None


def test_the_way_back_is_told_in_a_worktree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    clone = left_by_dvc(tmp_path / "clone")
    git(clone, "checkout", "--quiet", "trunk")
    git(clone, "worktree", "add", "--quiet", "-b", "tried/here", str(tmp_path / "other"))
    other = tmp_path / "other"
    assert way_back(other) is None
    git(other, "checkout", "--quiet", "--detach")
    said = way_back(other)
    assert said is not None
    assert said.endswith("git checkout tried/here")


def left_by_dvc(folder: Path) -> Path:
    """A repository as git makes it, on the detached HEAD where a killed `dvc exp run` leaves it."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "first")
    commit = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "--quiet", "--detach")
    git(folder, "update-ref", "refs/exps/exec/EXEC_HEAD", commit)
    return folder


def git(folder: Path, *arguments: str) -> str:
    """What git answers."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


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


ROOT = Path(__file__).parent.parent
STARTED_BY = {"DVC": "DVC_STAGE", "torch": "WORLD_SIZE"}
ORPHAN = """
import os, subprocess, sys, time
together = "WORLD_SIZE" in os.environ  # torch sets its workers apart
if together:
    os.environ["FNE_LAUNCHER"] = str(os.getpid())
command = [sys.executable, "-c", sys.argv[1]]
at_work = sys.argv[2] == "at work"
told = subprocess.PIPE if at_work else subprocess.DEVNULL  # a pipe that nobody reads would end it too
child = subprocess.Popen(command, stdout=told, text=True, start_new_session=together)
if at_work:
    child.stdout.readline()
else:
    time.sleep(float(sys.argv[2]))
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
WORKS = (
    STAGE.replace('"working"', '"working, started by", os.getppid()')
    .replace("time.sleep(600)", "")
    .replace("import time", "import os")
)


def orphan(moment: str, by: str | None) -> Iterator[int]:
    """The number of a stage whose parent, called `by`, is killed: "at work", or so many seconds after it started it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "WORLD_SIZE")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if by is None else {STARTED_BY[by]: "2"})
    command = [sys.executable, "-c", ORPHAN, STAGE, moment]
    # a process group of its own, as a shell gives to what is typed
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.wait()
    try:
        yield pid
    finally:
        if running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("by", [*STARTED_BY, None])
def test_a_stage_ends_with_the_dvc_that_started_it(by: str | None) -> None:
    with contextmanager(orphan)("at work", by) as pid:
        assert ends(pid, 0.5 if by is None else 30) == (by is not None)


@pytest.mark.parametrize("seconds", [0, 0.01, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("by", STARTED_BY)
def test_a_stage_whose_dvc_is_killed_at_once_ends(by: str, seconds: float) -> None:
    """Before it can ask to be told of that: at its interpreter's start, and at its first imports."""
    with contextmanager(orphan)(str(seconds), by) as pid:
        assert ends(pid, 30)


def test_a_stage_works_whose_dvc_is_number_1() -> None:
    """As in a container; orphans are given to number 1 too."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to number processes anew")
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKS!r}], check=True)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_STAGE": "train"}
    command = [*apart, sys.executable, "-c", starts]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "working, started by 1\n"


def ends(pid: int, seconds: float) -> bool:
    """Whether it does within so many seconds."""
    give_up = time.monotonic() + seconds
    while running(pid) and time.monotonic() < give_up:
        time.sleep(0.05)
    return not running(pid)


def running(pid: int) -> bool:
    """Whether it works: an orphan that has ended may wait for somebody to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
