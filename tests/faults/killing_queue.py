"""Two queue workers, or what they started, are killed: does what docs/reliability.md tells bring all back?"""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress

from tests.end_to_end.test_dvc import Clone
from tests.faults.killing import differences
from tests.faults.killing_dvc import (
    Moment,
    Outcome,
    on_a_branch,
    outcome,
    processes_in,
    ref_of,
)

EXPERIMENTS = {"queued-1": 0.4, "queued-2": 0.401}
VICTIMS = {"everything": "", "the workers": "queue-worker", "the stages": "-m stages."}
"""By a part of the command line."""
LONGEST = 300.0
STATUS = re.compile(r"^\w{7}\s+(\S+)\s.*\s(Queued|Running|Success|Failed)\s*$", re.MULTILINE)


def uninterrupted(clone: Clone) -> float:
    """The seconds that the two take from the start of the workers, when nobody is killed."""
    _queue(clone, EXPERIMENTS)
    start_workers(clone)
    started = time.monotonic()
    _wait(clone)
    return time.monotonic() - started


def kill_queue(clone: Clone, victims: str, moment: Moment, number: signal.Signals, expected: Outcome) -> bool:
    """Kill `victims` when `moment` has come, and do what the documentation says: then all has to be as expected.

    Whether the kill kept an experiment from ending well: a worker that is told by SIGTERM or SIGINT ends what it has
    begun, so that this one does not.
    """
    _queue(clone, EXPERIMENTS)
    start_workers(clone)
    moment(clone)
    _kill(clone, victims, number)
    landed = _until_idle(clone) != dict.fromkeys(EXPERIMENTS, "Success")
    give_up = time.monotonic() + LONGEST
    while stuck := [name for name, status in statuses(clone).items() if status == "Running"]:
        assert time.monotonic() < give_up, f"after dvc queue kill {stuck} are Running"
        with suppress(AssertionError):  # one that has ended since is refused
            clone.dvc("queue", "kill", *stuck)  # the first time it may only end what is left of an experiment
        time.sleep(2)
    clone.dvc("queue", "remove", "--failed")
    left = statuses(clone)
    _queue(clone, {name: value for name, value in EXPERIMENTS.items() if name not in left})
    start_workers(clone)
    _wait(clone)
    refs = {str(value): ref_of(clone, name) for name, value in EXPERIMENTS.items()}
    assert differences(outcome(clone, refs), expected) == []
    assert on_a_branch(clone)
    give_up = time.monotonic() + 60  # a worker without work ends by itself
    while (alive := list(processes_in(clone.folder))) and time.monotonic() < give_up:
        time.sleep(0.5)
    assert not alive, [process.command for process in alive]
    return landed


def start_workers(clone: Clone, count: int = 2) -> None:
    """So many of them."""
    assert clone.start("queue", "start", "--jobs", str(count)).wait() == 0, clone.log.read_text()


def statuses(clone: Clone) -> dict[str, str]:
    """What `dvc queue status` says of each experiment."""
    return dict(STATUS.findall(clone.dvc("queue", "status")))


def _kill(clone: Clone, victims: str, number: signal.Signals) -> None:
    """As soon as there is one to be killed: between two stages there is none."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        found = [process for process in processes_in(clone.folder) if VICTIMS[victims] in process.command]
        for process in found:
            process.send(number)
        if found:
            return
        time.sleep(0.05)


def _queue(clone: Clone, experiments: dict[str, float]) -> None:
    for name, value in experiments.items():
        clone.dvc("exp", "run", "--queue", "--name", name, "-S", f"sampler.cutdown={value}")


def _until_idle(clone: Clone) -> dict[str, str]:
    """The experiments' states once no worker is at work."""
    give_up = time.monotonic() + LONGEST
    while "Worker status: 0 active" not in (told := clone.dvc("queue", "status")):
        assert time.monotonic() < give_up, told
        time.sleep(0.5)
    return dict(STATUS.findall(told))


def _wait(clone: Clone) -> None:
    """Until both have ended well."""
    give_up = time.monotonic() + LONGEST
    while (told := statuses(clone)) != dict.fromkeys(EXPERIMENTS, "Success"):
        assert "Failed" not in told.values() and time.monotonic() < give_up, told
        time.sleep(0.5)
