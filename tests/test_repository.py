"""The way back from a detached HEAD: advised after a kill of `dvc exp run`, and in no other case."""

from __future__ import annotations

import json
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
from pipeline.repository import EXPERIMENT, way_back

GONE = 2**22 + 1  # above Linux's largest process number


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A repository where a killed `dvc exp run` leaves it: HEAD detached, its record there, its process gone."""
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    commit(tmp_path, "first")
    git(tmp_path, "checkout", "--quiet", "--detach")
    record(tmp_path, GONE)
    return tmp_path


def record(folder: Path, process: int) -> None:
    (folder / EXPERIMENT).parent.mkdir(parents=True, exist_ok=True)
    (folder / EXPERIMENT).write_text(json.dumps({"pid": process, "stdin": None}))


def commit(folder: Path, message: str) -> None:
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", message)


def git(folder: Path, *arguments: str) -> str:
    """What git answers."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def advice(folder: Path) -> list[str]:
    """The command that is advised."""
    told = way_back(folder)
    assert told is not None
    return told.rpartition(": ")[2].split()


def test_after_a_kill_the_advice_leads_back_to_the_branch(workspace: Path) -> None:
    subprocess.run(advice(workspace), cwd=workspace, check=True)
    assert git(workspace, "symbolic-ref", "HEAD") == "refs/heads/trunk"
    assert way_back(workspace) is None, "it is done"


def test_the_advice_moves_neither_the_branch_nor_a_file(workspace: Path) -> None:
    """Also where DVC was killed after it had committed the experiment."""
    trunk = git(workspace, "rev-parse", "trunk")
    (workspace / "params.yaml").write_text("tried")
    git(workspace, "add", "params.yaml")
    commit(workspace, "dvc: commit experiment")
    subprocess.run(advice(workspace), cwd=workspace, check=True)
    assert git(workspace, "rev-parse", "trunk", "HEAD").split() == [trunk, trunk]
    assert (workspace / "params.yaml").read_text() == "tried"


def test_while_the_experiment_runs_nothing_is_advised(workspace: Path) -> None:
    record(workspace, os.getpid())
    assert way_back(workspace) is None


def test_who_has_checked_out_a_commit_is_left_alone(workspace: Path) -> None:
    (workspace / EXPERIMENT).unlink()
    assert way_back(workspace) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": null}'])
def test_a_record_that_names_no_process_is_passed_over(content: str, workspace: Path) -> None:
    (workspace / EXPERIMENT).write_text(content)
    assert way_back(workspace) is None


def test_an_experiment_that_began_on_a_detached_head_has_no_branch_to_go_back_to(workspace: Path) -> None:
    git(workspace, "branch", "--move", "trunk", "renamed")
    assert way_back(workspace) is None


def test_packed_branches_are_found(workspace: Path) -> None:
    git(workspace, "pack-refs", "--all")
    assert advice(workspace)[-1] == "refs/heads/trunk"


def test_in_a_worktree_its_own_branch_is_advised(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("worktree") / "other"
    git(workspace, "worktree", "add", "--quiet", "-b", "tried/here", str(other))
    git(other, "checkout", "--quiet", "--detach")
    record(other, GONE)
    assert advice(other)[-1] == "refs/heads/tried/here"


def test_without_git_nothing_is_advised(tmp_path: Path) -> None:
    record(tmp_path, GONE)
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
