"""Two queue workers, or what they started, are killed: does what docs/reliability.md tells bring all back?"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.end_to_end.test_dvc import Clone
from tests.faults.killing import tracked
from tests.faults.killing_dvc import Outcome, processes_in

EXPERIMENTS = {"cut-1": 0.15, "cut-2": 0.35}
VICTIMS = {"everything": "", "the workers": "queue-worker", "the stages": "-m stages."}
"""By a part of the command line."""
LONGEST = 300.0
STATUS = re.compile(r"^\w{7}\s+(\S+)\s.*\s(Queued|Running|Success|Failed)\s*$", re.MULTILINE)


def uninterrupted(clone: Clone) -> tuple[Outcome, float]:
    """What the two make when nobody is killed, and the seconds from the start of the workers."""
    _queue(clone, EXPERIMENTS)
    started = time.monotonic()
    start_workers(clone)
    _wait(clone)
    return _outcome(clone), time.monotonic() - started


def kill_queue(clone: Clone, victims: str, seconds: float, number: signal.Signals, expected: Outcome) -> list[str]:
    """Kill `victims` after `seconds`, do what the documentation says, and name all that is not as it should be."""
    _queue(clone, EXPERIMENTS)
    start_workers(clone)
    time.sleep(seconds)
    for process in list(processes_in(clone.folder)):
        if VICTIMS[victims] in process.command:
            process.send(number)
    told = _until_idle(clone)
    if stuck := [name for name, status in told.items() if status == "Running"]:
        clone.dvc("queue", "kill", *stuck)
    while "Running" in statuses(clone).values():  # what is left of an experiment ends in its own time
        time.sleep(0.5)
    clone.dvc("queue", "remove", "--failed")
    left = statuses(clone)
    _queue(clone, {name: value for name, value in EXPERIMENTS.items() if name not in left})
    start_workers(clone)
    if problem := _wait(clone):
        return [problem]
    problems = [
        f"{name}: {mine} instead of {wanted}"
        for name, mine, wanted in zip(("metrics", "MLflow"), _outcome(clone), expected, strict=True)
        if mine != wanted
    ]
    if not (clone.folder / ".git/HEAD").read_text().startswith("ref:"):
        problems.append("git is left on a detached HEAD")
    give_up = time.monotonic() + 60  # a worker without work ends by itself
    while (alive := list(processes_in(clone.folder))) and time.monotonic() < give_up:
        time.sleep(0.5)
    return problems + [f"left behind: {process.command}" for process in alive]


def _queue(clone: Clone, experiments: dict[str, float]) -> None:
    for name, value in experiments.items():
        clone.dvc("exp", "run", "--queue", "--name", name, "-S", f"sampler.cutdown={value}")


def start_workers(clone: Clone) -> None:
    """Two of them."""
    # a worker keeps what it inherits: a pipe would stay open as long as it lives
    subprocess.run(
        [sys.executable, "-m", "dvc", "queue", "start", "--jobs", "2"],
        cwd=clone.folder,
        env=clone.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def statuses(clone: Clone) -> dict[str, str]:
    """What `dvc queue status` says of each experiment."""
    return dict(STATUS.findall(clone.dvc("queue", "status")))


def _until_idle(clone: Clone) -> dict[str, str]:
    """The experiments' states once no worker is at work."""
    give_up = time.monotonic() + LONGEST
    while "Worker status: 0 active" not in (told := clone.dvc("queue", "status")):
        assert time.monotonic() < give_up, told
        time.sleep(0.5)
    return dict(STATUS.findall(told))


def _wait(clone: Clone) -> str:
    """Until both have ended; what is wrong, if anything is."""
    give_up = time.monotonic() + LONGEST
    while (told := statuses(clone)) != dict.fromkeys(EXPERIMENTS, "Success"):
        if "Failed" in told.values() or time.monotonic() > give_up:
            return f"the second time: {told}"
        time.sleep(0.5)
    return ""


def _outcome(clone: Clone) -> Outcome:
    refs = {Path(ref).name: ref for ref in clone.say("git", "for-each-ref", "--format=%(refname)").split()}
    metrics = {name: json.loads(clone.say("git", "show", f"{refs[name]}:metrics.json")) for name in EXPERIMENTS}
    store = tracked(clone.folder)
    return metrics, {part: store[part] for part in ("runs", "metrics")}
