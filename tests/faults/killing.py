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
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import sha256
from pipeline.paths import MADE_BY
from tests.stages.running import OUTSIDE, ROOT, STAGES, write_empty_store, write_tiny_params

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 120.0  # seconds for one stage
KILLED_PARAMS = {"train__epochs": 4, "train__batch_size": 16, "memory__size": 24, "sampler__min_matches": 4}
TRACKED = {
    "runs": "SELECT status FROM runs WHERE lifecycle_stage = 'active'",
    "metrics": "SELECT key, step, value FROM metrics JOIN runs USING (run_uuid) WHERE lifecycle_stage = 'active'",
    "params": "SELECT key, value FROM params JOIN runs USING (run_uuid) WHERE lifecycle_stage = 'active'",
    "models": "SELECT name FROM model_versions",
}


@dataclass
class Reference:
    """What happens when nobody kills: the folder before each stage, the outputs after it, its seconds, the record."""

    before: dict[str, Path] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tracked: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Kill:
    """One of them: which stage, with what, how long after its start."""

    stage: str
    signal: signal.Signals
    seconds: float


def seeded_kills(reference: Reference, stage: str, count: int, seed: int) -> list[Kill]:
    """`count` moments of a stage, one in each part of its time, the signals in turn."""
    rng = np.random.default_rng([seed, STAGES.index(stage)])
    moments = (np.arange(count) + rng.random(count)) / count * reference.seconds[stage]
    return [Kill(stage, SIGNALS[(i + STAGES.index(stage)) % 3], float(moment)) for i, moment in enumerate(moments)]


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
        reference.outputs[stage] = outputs(work, stage)
        reference.tracked[stage] = tracked(work)
    return reference


def start_warm(stage: str, folder: Path) -> ForkServerProcess:
    """A stage as a process of its own, its imports done; what it says goes to `folder/<stage>.log`."""
    with _importable():
        process = _context().Process(target=_work, args=(stage, str(folder)))
        process.start()
    return process


def try_kill(kill: Kill, reference: Reference, folder: Path) -> list[str]:
    """Kill a stage, start it again, and name everything that is not as in `reference`; empty when all is well."""
    shutil.copytree(reference.before[kill.stage], folder)
    process = start_warm(kill.stage, folder)
    time.sleep(kill.seconds)
    assert process.pid is not None
    if process.is_alive():
        os.kill(process.pid, kill.signal)
    process.join(LONGEST)
    problems = [] if _gone(process.pid) else ["a process is left behind"]
    expected = reference.outputs[kill.stage]
    for name, digest in outputs(folder, kill.stage).items():
        if expected.get(name) != digest:
            problems.append(f"after the kill: {name} is not whole")
    again = start_warm(kill.stage, folder)
    again.join(LONGEST)
    if again.exitcode != 0:
        return [*problems, f"the second start ended with {again.exitcode}: {_last_line(folder, kill.stage)}"]
    if outputs(folder, kill.stage) != expected:
        problems.append("the outputs are not those of an uninterrupted run")
    problems += [
        f"{path.relative_to(folder)} is left" for path in folder.rglob("*") if path.suffix in (".part", ".old")
    ]
    if list(folder.glob(".tracking/*.jsonl")):
        problems.append("a journal is left")
    found = tracked(folder)
    problems += [
        f"{part} in MLflow: {_difference(found[part], wanted)}"
        for part, wanted in reference.tracked[kill.stage].items()
        if found[part] != wanted
    ]
    return problems


def outputs(folder: Path, stage: str) -> dict[str, str]:
    """Digests of a stage's outputs under their final names."""
    places = [folder / place for place, maker in MADE_BY.items() if maker == stage]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(files) if path.is_file() and not _half(path)}


def tracked(folder: Path) -> dict[str, Any]:
    """What the store holds, without times and ids: lists, so that what is there twice shows."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return {part: sorted(connection.execute(query).fetchall()) for part, query in TRACKED.items()}


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.warm"])
    return context


def _work(stage: str, folder: str) -> None:
    os.setsid()
    os.chdir(folder)
    for name in OUTSIDE:
        os.environ.pop(name, None)
    with open(f"{stage}.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = [f"stages.{stage}"]
    importlib.import_module(f"stages.{stage}").main()


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


def _gone(group: int) -> bool:
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


def _difference(found: list[Any], wanted: list[Any]) -> str:
    extra = [row for row in found if found.count(row) > wanted.count(row)]
    missing = [row for row in wanted if wanted.count(row) > found.count(row)]
    return f"too much {extra[:3]}, missing {missing[:3]}"
