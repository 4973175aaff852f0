"""What commands cost beside their work: --help, a pipeline that is up to date, the queue, a failing MLflow server."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Row, at_most
from benchmarks.preparation import stages_before
from pipeline.recipes import Recipe, apply_recipe

STAGES = (*stages_before("audit"), "audit")
EXPERIMENTS = 4
ROUNDS = 3
LONGEST = 120.0  # seconds that the queue may take
TINY = {
    "data.scenes.train": 12,
    "data.scenes.val": 4,
    "data.scenes.test": 6,
    "base.epochs": 0,
    "memory.size": 8,
    "train.epochs": 1,
    "train.batch_size": 4,
}


def rows() -> Iterator[Row]:
    """In a clone of the last commit, with a few scenes: what is measured does not depend on how many."""
    slowest = {
        name: statistics.median(seconds(sys.executable, "-m", f"stages.{name}", "--help") for _ in range(5))
        for name in STAGES
    }
    name = max(slowest, key=slowest.__getitem__)
    yield at_most("a stage's --help", "seconds, the slowest stage's", slowest[name], 0.5, f"stage {name}")
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        run("git", "clone", "--quiet", str(Path.cwd()), str(clone))
        _make_tiny(clone)
        run("dvc", "repro", "--quiet", at=clone)
        _commit(clone)
        again = statistics.median(seconds("dvc", "repro", at=clone) for _ in range(3))
        yield at_most("dvc repro, nothing to do", "seconds", again, 2)
        yield _queue(clone, again)
        yield _failing_server(clone)


def _queue(clone: Path, nothing: float) -> Row:
    """Experiments that change no stage's parameter, so that all they cost is DVC's: from one's start to the next's.

    What the queue adds is what they take longer than in the workspace, by `dvc exp run`.
    """
    direct = [seconds("dvc", "exp", "run", "-S", f"tracking.experiment=direct{i}", at=clone) for i in range(3)]
    plain = statistics.median(direct)
    run("git", "checkout", "--quiet", "--force", "HEAD", at=clone)
    begun = time.perf_counter()
    for number in range(EXPERIMENTS):
        run("dvc", "exp", "run", "--queue", "-S", f"tracking.experiment=queued{number}", at=clone)
    queued = (time.perf_counter() - begun) / EXPERIMENTS
    folder = clone / ".dvc/tmp/exps/run"
    seen = set(os.listdir(folder)) if folder.exists() else set()
    starts: list[float] = []
    run("dvc", "queue", "start", "--jobs", "1", at=clone, quiet=True)  # the worker keeps a pipe open while it lives
    give_up = time.monotonic() + LONGEST
    while len(starts) < EXPERIMENTS and time.monotonic() < give_up:
        for name in set(os.listdir(folder)) - seen if folder.exists() else ():
            seen.add(name)
            starts.append(time.perf_counter())
        time.sleep(0.05)
    while (status := run("dvc", "queue", "status", at=clone)).count("Success") < EXPERIMENTS:
        if "Failed" in status or time.monotonic() > give_up:
            raise RuntimeError(f"queued experiments failed: {status}")
        time.sleep(1)
    each = (starts[-1] - starts[0]) / (EXPERIMENTS - 1)
    remark = (
        f"{each:.1f} s from one to the next, {plain:.1f} s by dvc exp run, {nothing:.1f} s for a dvc repro that runs "
        f"nothing; and {queued:.1f} s to queue it"
    )
    return at_most("an experiment through the queue", "seconds beside those of dvc exp run", each - plain, 3, remark)


def _failing_server(clone: Path) -> Row:
    """A training whose MLflow server takes connections and never answers, or is not there, beside one with a store."""
    slower: dict[str, list[float]] = {"hangs": [], "refuses": []}
    with socket.socket() as deaf, socket.socket() as closed:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        closed.bind(("127.0.0.1", 0))  # taken, but nobody listens
        for _ in range(ROUNDS):
            usual = _train(clone)
            for kind, place in (("hangs", deaf), ("refuses", closed)):
                slower[kind].append(_train(clone, f"http://127.0.0.1:{place.getsockname()[1]}") - usual)
    hangs, refuses = (statistics.median(taken) for taken in slower.values())
    remark = f"one that refuses connections: {refuses:.1f} s; the whole stage train, medians of {ROUNDS}"
    return at_most("a tracking server that hangs", "seconds that stage train takes longer", hangs, 5, remark)


def _train(clone: Path, server: str | None = None) -> float:
    for left in (".checkpoints", ".tracking"):
        shutil.rmtree(clone / left, ignore_errors=True)
    return seconds(sys.executable, "-m", "stages.train", at=clone, server=server)


def _make_tiny(clone: Path) -> None:
    path = clone / "params.yaml"
    recipe = Recipe(path, "A training of seconds", TINY)
    path.write_text(apply_recipe(recipe, path.read_text(encoding="utf-8"), path), encoding="utf-8")


def _commit(clone: Path) -> None:
    run("git", "add", "--all", at=clone)
    name = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    run("git", *name, "commit", "--quiet", "--no-verify", "--message", "A few scenes", at=clone)


def seconds(*command: str, at: Path | None = None, server: str | None = None) -> float:
    """How long `run` takes."""
    begun = time.perf_counter()
    run(*command, at=at, server=server)
    return time.perf_counter() - begun


def run(*command: str, at: Path | None = None, server: str | None = None, quiet: bool = False) -> str:
    """A command's output; with the benchmark's own python first in the path, as `make` has it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    if server is not None:
        environment["MLFLOW_TRACKING_URI"] = server
    said = subprocess.DEVNULL if quiet else subprocess.PIPE
    done = subprocess.run(command, cwd=at, env=environment, stdout=said, stderr=said, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout or ""
