"""DVC itself is killed: is its stage gone, and does the same command end well, on the branch?"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.paths import METRICS
from tests.data.published import write_params
from tests.end_to_end.test_dvc import SMALL, Clone
from tests.faults.killing import differences, tracked
from tests.stages.running import write_empty_store

CHANGE = ("sampler.cutdown", 0.4)  # what makes train, evaluate and audit run
COMMANDS = {
    "dvc repro": ("repro",),
    "dvc exp run": ("exp", "run", "-n", "tried", "-S", f"{CHANGE[0]}={CHANGE[1]}"),
    "dvc exp run --temp": ("exp", "run", "--temp", "-n", "tried", "-S", f"{CHANGE[0]}={CHANGE[1]}"),
}
LONGEST = 600.0  # seconds for a command
DYING = 60.0  # seconds that a killed one may take
Outcome = dict[str, Any]
"""By the cut-down, and by a name for the report: metrics, every output's digest, and what MLflow holds."""
Moment = Callable[[Clone], object]
"""What waits in a clone until it is time to kill."""


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
    """Until stage train has taken its lock: its imports are done, its steps are not."""
    give_up = time.monotonic() + LONGEST
    while not list(clone.folder.glob(".checkpoints/train-*.lock")):
        assert time.monotonic() < give_up, "nothing trains"
        time.sleep(0.02)


def uninterrupted(clone: Clone, command: str) -> float:
    """The seconds that `command` takes when nobody kills it."""
    started = time.monotonic()
    assert _start(clone, command).wait(LONGEST) == 0, _said(clone)
    return time.monotonic() - started


def kill_dvc(clone: Clone, command: str, moment: Moment, number: signal.Signals, expected: Outcome) -> bool:
    """Kill `command` when `moment` has come and run it again; whether the kill ended it before its time.

    Nothing may be left of the first, and the second has to make what is expected.
    """
    process = _start(clone, command)
    moment(clone)
    if process.poll() is None:
        if number == signal.SIGINT:  # a terminal sends it to all that run in it; DVC leaves it to its stage
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    landed = process.wait(DYING) != 0
    left = _left_after(clone.folder, 15)
    assert not left, [found.command for found in left]
    if not on_a_branch(clone):
        clone.say("git", "symbolic-ref", "HEAD", "refs/heads/main")  # as docs/experiments.md says
    assert _start(clone, command).wait(LONGEST) == 0, _said(clone)
    problems = differences(_outcome(clone, command), expected)
    assert not problems, problems
    assert on_a_branch(clone)
    return landed


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
    del outputs["report"]  # its footer names the experiment, the commit and the date
    return {"metrics": json.loads(text(str(METRICS))), "outputs": outputs}


def outcome(clone: Clone, refs: Mapping[str, str | None]) -> Outcome:
    """What experiments, by their cut-down, have made; None: the one in the workspace. Other runs in MLflow show too."""
    found: Outcome = {}
    with closing(sqlite3.connect(clone.folder / "mlflow.db")) as store:
        query = "SELECT value, run_uuid FROM params JOIN runs USING (run_uuid) "
        query += f"WHERE key = '{CHANGE[0]}' AND lifecycle_stage = 'active'"
        runs = store.execute(query).fetchall()
    for value in {*refs, *(value for value, _ in runs)}:
        found[value] = {"in MLflow": tracked(clone.folder, [run for of, run in runs if of == value])}
    for value, ref in refs.items():
        found[value] |= files_of(clone, ref)
    return found


def _start(clone: Clone, command: str) -> subprocess.Popen[bytes]:
    if command == "dvc repro":
        write_params(clone.folder, **(SMALL | {CHANGE[0].replace(".", "__"): CHANGE[1]}))
    return clone.start(*COMMANDS[command])


def _said(clone: Clone) -> str:
    return clone.log.read_text().strip()[-300:]


def _left_after(folder: Path, seconds: float) -> list[Found]:
    give_up = time.monotonic() + seconds
    while (left := list(processes_in(folder))) and time.monotonic() < give_up:
        time.sleep(0.1)
    return left


def _outcome(clone: Clone, command: str) -> Outcome:
    value = str(CHANGE[1])
    if command == "dvc repro":
        return outcome(clone, {value: None})
    found = outcome(clone, {value: ref_of(clone, "tried")})
    if "--temp" not in command:  # the workspace says the same as the commit
        assert differences(files_of(clone, None)["outputs"], found[value]["outputs"], "workspace") == []
    return found
