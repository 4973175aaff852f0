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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.published import write_params
from tests.end_to_end.test_dvc import SMALL, Clone
from tests.faults.killing import tracked
from tests.stages.running import write_empty_store

CHANGE = ("sampler.cutdown", 0.15)  # what makes train and evaluate run
COMMANDS = {
    "dvc repro": ("repro",),
    "dvc exp run": ("exp", "run", "-n", "tried", "-S", f"{CHANGE[0]}={CHANGE[1]}"),
    "dvc exp run --temp": ("exp", "run", "--temp", "-n", "tried", "-S", f"{CHANGE[0]}={CHANGE[1]}"),
}
WAY_BACK = re.compile(r"git checkout (\S+)$", re.MULTILINE)
Outcome = tuple[Any, Any]
"""The metrics that a command made, and what MLflow holds after it."""


def copied(clone: Clone, folder: Path) -> Clone:
    """A clone's copy with an empty tracking store, its branch checked out."""
    other = copy.copy(clone)
    other.folder = folder
    left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", ".tracking", ".checkpoints")
    shutil.copytree(clone.folder, folder, symlinks=True, ignore=left_out)
    write_empty_store(folder)
    return other


def uninterrupted(clone: Clone, command: str) -> tuple[Outcome, float]:
    """What `command` makes when nobody kills it, and its seconds."""
    started = time.monotonic()
    process = _start(clone, command)
    assert process.wait(600) == 0
    return _outcome(clone, command), time.monotonic() - started


def kill_dvc(clone: Clone, command: str, seconds: float, number: signal.Signals, expected: Outcome) -> list[str]:
    """Kill `command` after `seconds`, run it again, and name everything that is not as it should be."""
    process = _start(clone, command)
    time.sleep(seconds)
    process.send_signal(number)
    process.wait(60)
    problems = []
    give_up = time.monotonic() + 15
    while (left := list(processes_in(clone.folder))) and time.monotonic() < give_up:
        time.sleep(0.1)
    if left:
        problems.append(f"left behind: {[process.command for process in left]}")
    if not (clone.folder / ".git/HEAD").read_text().startswith("ref:"):
        told = WAY_BACK.search(clone.say(sys.executable, "-m", "stages.show"))
        if told is None:
            return [*problems, "a detached HEAD, and no way back is printed"]
        clone.say("git", "checkout", "--quiet", told[1])
    again = _start(clone, command)
    output, _ = again.communicate(timeout=600)
    if again.returncode:
        return [*problems, f"the second time it ended with {again.returncode}: {output.strip()[-300:]}"]
    found = _outcome(clone, command)
    problems += [
        f"{name}: {mine} instead of {wanted}"
        for name, mine, wanted in zip(("metrics", "MLflow"), found, expected, strict=True)
        if mine != wanted
    ]
    if not (clone.folder / ".git/HEAD").read_text().startswith("ref:"):
        problems.append("git is left on a detached HEAD")
    return problems


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


def _start(clone: Clone, command: str) -> subprocess.Popen[str]:
    if command == "dvc repro":
        write_params(clone.folder, **(SMALL | {CHANGE[0].replace(".", "__"): CHANGE[1]}))
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *COMMANDS[command]],
        cwd=clone.folder,
        env=clone.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _outcome(clone: Clone, command: str) -> Outcome:
    metrics = clone.metrics()
    if "--temp" in command:
        (ref,) = [name for name in clone.say("git", "for-each-ref", "--format=%(refname)").split() if "/tried" in name]
        metrics = json.loads(clone.say("git", "show", f"{ref}:metrics.json"))
    store = tracked(clone.folder)
    return metrics, {part: store[part] for part in ("runs", "metrics")}
