"""DVC itself is killed: is its stage gone, is there a way back to the branch, and does the same command end well?"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.paths import METRICS
from tests.data.published import write_params
from tests.end_to_end.test_dvc import SMALL, Clone
from tests.faults.killing import tracked
from tests.stages.running import write_empty_store

CHANGE = ("sampler.cutdown", 0.15)  # what makes train, evaluate and audit run
COMMANDS = {
    "dvc repro": ("repro",),
    "dvc exp run": ("exp", "run", "-n", "tried", "-S", f"{CHANGE[0]}={CHANGE[1]}"),
    "dvc exp run --temp": ("exp", "run", "--temp", "-n", "tried", "-S", f"{CHANGE[0]}={CHANGE[1]}"),
}
WAY_BACK = re.compile(r"git symbolic-ref HEAD \S+$", re.MULTILINE)
LONGEST = 600.0  # seconds for a command
DYING = 60.0  # seconds that a killed one may take
Outcome = dict[str, Any]
"""By a name for the report: metrics, every output's digest, and what MLflow holds."""
Moment = Callable[[Clone], object]
"""What waits in a clone until it is time to kill."""


@dataclass
class Killed:
    """Whether the kill ended what it was meant to end before its time, and all that was not as it should be."""

    landed: bool = False
    problems: list[str] = field(default_factory=list)


def copied(clone: Clone, folder: Path) -> Clone:
    """A clone's copy with an empty tracking store and nothing that DVC was about to do; its branch checked out."""
    other = copy.copy(clone)
    other.folder = folder
    left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", ".tracking", ".checkpoints")
    of_dvc = clone.folder / ".dvc"

    def ignored(place: str, names: list[str]) -> set[str]:
        return left_out(place, names) | ({"tmp"} if Path(place) == of_dvc else set())

    shutil.copytree(clone.folder, folder, symlinks=True, ignore=ignored)
    write_empty_store(folder)
    return other


def after(seconds: float) -> Moment:
    """Time that passes, whatever is going on."""
    return lambda clone: time.sleep(seconds)


def in_training(clone: Clone) -> None:
    """Until stage train holds the lock of its checkpoint: its imports are done, its steps are not."""
    give_up = time.monotonic() + LONGEST
    while not list(clone.folder.glob(".checkpoints/train-*.lock")):
        assert time.monotonic() < give_up, "nothing trains"
        time.sleep(0.02)


def uninterrupted(clone: Clone, command: str) -> tuple[Outcome, float]:
    """What `command` makes when nobody kills it, and its seconds."""
    started = time.monotonic()
    process = _start(clone, command)
    assert process.wait(LONGEST) == 0, _said(clone)
    return _outcome(clone, command), time.monotonic() - started


def kill_dvc(clone: Clone, command: str, moment: Moment, number: signal.Signals, expected: Outcome) -> Killed:
    """Kill `command` when `moment` has come, run it again, and name everything that is not as it should be."""
    process, killed = _start(clone, command), Killed()
    moment(clone)
    if process.poll() is None:
        if number == signal.SIGINT:  # a terminal sends it to all that run in it; DVC leaves it to its stage
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            killed.landed = process.wait(DYING) != 0
        except subprocess.TimeoutExpired:
            killed.problems.append(f"{DYING:.0f} s after {number.name} it still ran: {_said(clone)}")
            process.kill()
            process.wait()
    if left := _left_after(clone.folder, 15):
        killed.problems.append(f"left behind: {[found.command for found in left]}")
    if not on_a_branch(clone):
        told = WAY_BACK.search(_shown(clone))
        if told is None:
            killed.problems.append("a detached HEAD, and no way back is printed")
            return killed
        clone.say(*told[0].split())
    again = _start(clone, command)
    try:
        code = again.wait(LONGEST)
    except subprocess.TimeoutExpired:
        killed.problems.append(f"the second time it ran for more than {LONGEST:.0f} s: {_said(clone)}")
        again.kill()
        again.wait()
        return killed
    if code:
        killed.problems.append(f"the second time it ended with {code}: {_said(clone)}")
        return killed
    killed.problems += differences(_outcome(clone, command), expected)
    if not on_a_branch(clone):
        killed.problems.append("git is left on a detached HEAD")
    return killed


@dataclass(frozen=True)
class Found:
    """A process, by number and command line."""

    pid: int
    command: str

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def processes_in(folder: Path) -> Iterator[Found]:
    """Those that work below `folder`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    yield Found(int(entry.name), command)
            except OSError:
                continue


def end_all(folder: Path) -> None:
    """End what a failed trial has left, so that it does not disturb the next."""
    while left := list(processes_in(folder)):
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(0.2)


def on_a_branch(clone: Clone) -> bool:
    """Whether git is; a killed `dvc exp run` leaves a detached HEAD."""
    return (clone.folder / ".git/HEAD").read_text().startswith("ref:")


def ref_of(clone: Clone, experiment: str) -> str:
    """Where git keeps an experiment."""
    refs = clone.say("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    found = [ref for ref in refs if Path(ref).name == experiment]
    assert len(found) == 1, f"experiments called {experiment}: {found}"
    return found[0]


def files_of(clone: Clone, ref: str | None) -> dict[str, Any]:
    """What a workspace (None) or an experiment's commit says of its outcome.

    Its metrics, and each output of each stage by the digest in dvc.lock, a folder's over all of its files. No output is
    left out: the same parameters give the same bytes, in the workspace, a temporary copy and the queue alike.
    """

    def text(path: str) -> str:
        return (clone.folder / path).read_text() if ref is None else clone.say("git", "show", f"{ref}:{path}")

    stages = YAML(typ="safe").load(text("dvc.lock"))["stages"]
    outputs = {output["path"]: output["md5"] for stage in stages.values() for output in stage["outs"]}
    return {"metrics": json.loads(text(str(METRICS))), "outputs": outputs}


def store_of(clone: Clone) -> dict[str, Any]:
    """What MLflow holds, by a name for the report."""
    return {f"{part} in MLflow": rows for part, rows in tracked(clone.folder).items()}


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Where two outcomes are not the same."""
    if found == expected:
        return []
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            told
            for key in sorted({*found, *expected})
            for told in differences(found.get(key), expected.get(key), f"{name}/{key}" if name else key)
        ]
    if isinstance(found, list) and isinstance(expected, list):
        extra = [row for row in found if found.count(row) > expected.count(row)]
        missing = [row for row in expected if expected.count(row) > found.count(row)]
        return [f"{name}: too much {extra[:3]}, missing {missing[:3]}"]
    return [f"{name}: {found} instead of {expected}"]


def missing_from_cache(clone: Clone, outputs: dict[str, str]) -> list[str]:
    """Those outputs of which DVC's cache lacks a file or holds other bytes, members of folders too."""
    cache, problems = clone.folder / ".dvc/cache/files/md5", []

    def fault(digest: str) -> str:
        path = cache / digest[:2] / digest[2:]
        if not path.is_file():
            return "is not in DVC's cache"
        same = md5(path.read_bytes(), usedforsecurity=False).hexdigest() == digest.removesuffix(".dir")
        return "" if same else "is damaged in DVC's cache"

    for name, digest in outputs.items():
        if name == str(METRICS):  # in git, not in the cache
            continue
        told = {name: fault(digest)}
        if digest.endswith(".dir") and not told[name]:
            members = json.loads((cache / digest[:2] / digest[2:]).read_text())
            told |= {f"{name}/{member['relpath']}": fault(member["md5"]) for member in members}
        problems += [f"{path} {problem}" for path, problem in told.items() if problem]
    return problems


def _shown(clone: Clone) -> str:
    """What `commands.show` prints, which fails where the killed evaluation's metrics are gone."""
    command, at = [sys.executable, "-m", "commands.show"], clone.folder
    return subprocess.run(command, cwd=at, env=clone.environment, capture_output=True, text=True, check=False).stderr


def _start(clone: Clone, command: str) -> subprocess.Popen[bytes]:
    if command == "dvc repro":
        write_params(clone.folder, **(SMALL | {CHANGE[0].replace(".", "__"): CHANGE[1]}))
    with open(_log(clone), "wb") as log:  # no pipe: what is left of a killed one would keep it open
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *COMMANDS[command]],
            cwd=clone.folder,
            env=clone.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _log(clone: Clone) -> Path:
    return clone.folder.with_name(f"{clone.folder.name}.log")


def _said(clone: Clone) -> str:
    return _log(clone).read_text().strip()[-300:]


def _left_after(folder: Path, seconds: float) -> list[Found]:
    give_up = time.monotonic() + seconds
    while (left := list(processes_in(folder))) and time.monotonic() < give_up:
        time.sleep(0.1)
    return left


def _outcome(clone: Clone, command: str) -> Outcome:
    experiment = None if command == "dvc repro" else ref_of(clone, "tried")
    files = files_of(clone, experiment if "--temp" in command else None)
    lacking = missing_from_cache(clone, files["outputs"])
    if "--temp" not in command and experiment is not None:  # its commit says the same as the workspace
        lacking += differences(files_of(clone, experiment), files, "the experiment's commit")
    return files | store_of(clone) | {"cache": lacking}
