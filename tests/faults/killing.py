"""A stage is killed at a seeded moment and started again: is everything as if nothing had happened?"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipeline.files import sha256
from pipeline.paths import MADE_BY
from tests.stages.running import OUTSIDE, ROOT, STAGES, write_empty_store, write_tiny_params

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 120.0  # seconds for one stage
KILLED_PARAMS = {
    "train__epochs": 4,
    "train__batch_size": 16,
    "memory__size": 24,
    "sampler__min_matches": 4,
    "tracking__model": "fne",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "towers": {},
    "heads and a bank": {
        "base__epochs": 1,
        "base__scenes": 64,
        "model__train": "heads",
        "pairs__weighting": "npc",
        "pairs__bank_epochs": 1,
        "pairs__clean_threshold": 0.5,
        "train__epochs": 2,  # its workers start anew in each
        "train__workers": 1,
    },
}
"""What `run_whole` may run: end to end without a bank, or everything that the first one leaves out."""
TRACKED = {
    "runs": "SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'",
    "metrics": "SELECT run_uuid, key, step, value FROM metrics JOIN runs USING (run_uuid) "
    "WHERE lifecycle_stage = 'active'",
    "params": "SELECT run_uuid, key, value FROM params JOIN runs USING (run_uuid) WHERE lifecycle_stage = 'active'",
    "models": "SELECT run_id, name FROM model_versions",
    "logged models": "SELECT source_run_id, name, status FROM logged_models WHERE lifecycle_stage IS NOT 'deleted'",
    "data sets": "SELECT run_uuid, datasets.name, digest FROM datasets JOIN inputs ON source_id = dataset_uuid "
    "JOIN runs ON destination_id = run_uuid WHERE lifecycle_stage = 'active'",
}
"""Of each run, its id first."""


@dataclass
class Reference:
    """What happens when nobody kills: the folder before and after each stage, its outputs, seconds and record."""

    before: dict[str, Path] = field(default_factory=dict)
    after: dict[str, Path] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tracked: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Kill:
    """One of them: which stage, with what, how long after its start."""

    stage: str
    signal: signal.Signals
    seconds: float
    again: float | None = None
    """How long after its start the second one is killed too, and a third started; None: it is not."""
    over: bool = False
    """Whether an earlier run's outputs are there, which DVC would have removed, but a user's own command does not."""
    between: bool = False
    """Not after `seconds`, but between the two renames by which a folder takes the place of another."""


def seeded_kills(reference: Reference, stage: str, count: int, seed: int) -> list[Kill]:
    """`count` moments of a stage, one in each part of its time, the signals in turn."""
    first = STAGES.index(stage)
    drawn = enumerate(moments(count, reference.seconds[stage], [seed, first]))
    return [Kill(stage, SIGNALS[(i + first) % len(SIGNALS)], moment) for i, moment in drawn]


def moments(count: int, seconds: float, seed: Sequence[int]) -> list[float]:
    """One in each part of so many seconds."""
    drawn: list[float] = ((np.arange(count) + np.random.default_rng(seed).random(count)) / count * seconds).tolist()
    return drawn


def run_whole(folder: Path, stages: Sequence[str] = STAGES, **changes: Any) -> Reference:
    """Run the stages one after the other, keeping what the folder was before each."""
    work, reference = folder / "work", Reference()
    work.mkdir(parents=True)
    first = _context().Process(target=os.getpid)  # the fork server's imports are no stage's time
    with _importable():
        first.start()
    first.join()
    write_empty_store(work)
    write_tiny_params(work, **(KILLED_PARAMS | changes))
    for stage in stages:
        reference.before[stage] = folder / f"before-{stage}"
        shutil.copytree(work, reference.before[stage])
        started = time.monotonic()
        process = start_warm(stage, work)
        process.join(LONGEST)
        assert process.exitcode == 0, (work / f"{stage}.log").read_text()
        reference.seconds[stage] = time.monotonic() - started
        reference.after[stage] = folder / f"after-{stage}"
        shutil.copytree(work, reference.after[stage])
        reference.outputs[stage] = outputs(work, stage)
        reference.tracked[stage] = tracked(work)
    return reference


def start_warm(stage: str, folder: Path, between: signal.Signals | None = None) -> ForkServerProcess:
    """A stage as a process of its own, its imports done; what it says goes to `folder/<stage>.log`.

    Given `between`, it sends itself that signal between the two renames by which a folder takes another's place.
    """
    with _importable():
        process = _context().Process(target=_work, args=(stage, str(folder), between))
        process.start()
    return process


def try_kill(kill: Kill, reference: Reference, folder: Path) -> tuple[bool, list[str]]:
    """Kill a stage, start it again, and name everything that is not as in `reference`; nothing when all is well.

    Also whether it was killed, as often as `kill` says: a stage may have ended before.
    """
    shutil.copytree((reference.after if kill.over else reference.before)[kill.stage], folder)
    landed, problems = True, []
    for seconds in (kill.seconds, kill.again):
        if seconds is not None:
            killed, left = _kill_once(kill, seconds, reference, folder)
            landed &= killed
            problems += left
    last = start_warm(kill.stage, folder)
    last.join(LONGEST)
    if last.exitcode != 0:
        problems.append(f"the last start ended with {last.exitcode}: {_last_line(folder, kill.stage)}")
        return landed, problems
    if outputs(folder, kill.stage) != reference.outputs[kill.stage]:
        problems.append("the outputs are not those of an uninterrupted run")
    kept = [path for path in folder.glob(".checkpoints/*") if path.is_dir()]
    half = [path for path in folder.rglob("*") if path.suffix in (".part", ".old")]
    problems += [f"{path.relative_to(folder)} is left" for path in (*kept, *half)]
    problems += differences(tracked(folder), reference.tracked[kill.stage], "in MLflow")
    return landed, problems


def _kill_once(kill: Kill, seconds: float, reference: Reference, folder: Path) -> tuple[bool, list[str]]:
    process = start_warm(kill.stage, folder, kill.signal if kill.between else None)
    assert process.pid is not None
    if not kill.between:
        process.join(seconds)
        if process.is_alive():
            os.kill(process.pid, kill.signal)
    process.join(LONGEST)
    problems = [] if gone(process.pid) else ["a process is left behind"]
    problems += [
        f"after the kill: {name} is not whole"
        for name, digest in outputs(folder, kill.stage).items()
        if reference.outputs[kill.stage].get(name) != digest
    ]
    return process.exitcode != 0, problems


def outputs(folder: Path, stage: str) -> dict[str, str]:
    """Digests of a stage's outputs under their final names."""
    places = [folder / place for place, maker in MADE_BY.items() if maker == stage]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(files) if path.is_file() and not _half(path)}


def tracked(folder: Path, runs: Collection[str] | None = None) -> dict[str, Any]:
    """What the store holds of these runs, or of all, without times and ids; a list shows what is there twice."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        found = {part: connection.execute(query).fetchall() for part, query in TRACKED.items()}
    return {part: sorted(rest for run, *rest in rows if runs is None or run in runs) for part, rows in found.items()}


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Where two outcomes are not the same."""
    if found == expected:
        return []
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            problem
            for key in sorted({*found, *expected})
            for problem in differences(found.get(key), expected.get(key), f"{name}/{key}" if name else key)
        ]
    if isinstance(found, list) and isinstance(expected, list):
        extra = [row for row in found if found.count(row) > expected.count(row)]
        missing = [row for row in expected if expected.count(row) > found.count(row)]
        return [f"{name}: too much {extra[:3]}, missing {missing[:3]}"]
    return [f"{name}: {found} instead of {expected}"]


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.warm"])
    return context


def _work(stage: str, folder: str, between: signal.Signals | None) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts behind `&`, and inherited
    os.chdir(folder)
    for name in (*OUTSIDE, "DVC_STAGE"):
        os.environ.pop(name, None)
    with open(f"{stage}.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if between is not None:
        _send_between_renames(between)
    sys.argv = [f"stages.{stage}"]
    importlib.import_module(f"stages.{stage}").main()


def _send_between_renames(number: signal.Signals) -> None:
    replace = os.replace

    def replace_and_send(source: Any, place: Any, **options: Any) -> None:
        replace(source, place, **options)
        if str(place).endswith(".old"):
            os.kill(os.getpid(), number)

    mock.patch.object(os, "replace", replace_and_send).start()  # this process does nothing else


@contextmanager
def _importable() -> Iterator[None]:
    """The fork server is started in whatever folder a test works, and must find the repository's packages."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def gone(group: int) -> bool:
    """Whether the processes of a group, a stage and what it started, end soon."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _half(path: Path) -> bool:
    return any(part.startswith(".") and part.endswith((".part", ".old")) for part in path.parts)


def _last_line(folder: Path, stage: str) -> str:
    return (folder / f"{stage}.log").read_text().strip().rpartition("\n")[2]
