"""How figures are taken: side by side in one run, in turns, the median; and what a row of the table is."""

from __future__ import annotations

import ctypes
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params import Params

NO_GPU = "no GPU at hand"


@dataclass(frozen=True)
class Row:
    """One line of docs/performance.md: what was measured, how, the figure, and the aim where there is one."""

    what: str
    measure: str
    value: float | None
    aim: str
    met: bool | None
    remark: str = ""


def at_most(what: str, measure: str, value: float, limit: float, remark: str = "") -> Row:
    """A row whose aim is an upper limit."""
    return Row(what, measure, value, f"≤ {limit:g}", value <= limit, remark)


def at_least(what: str, measure: str, value: float, limit: float, remark: str = "") -> Row:
    """A row whose aim is a lower limit."""
    return Row(what, measure, value, f"≥ {limit:g}", value >= limit, remark)


def without_gpu(what: str, measure: str, aim: str) -> Row:
    """A row that needs a GPU, where there is none."""
    return Row(what, measure, None, aim, None, NO_GPU)


def in_turns(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[list[float], list[float]]:
    """Seconds of both, one after the other, after one round that does not count.

    What else the machine does then slows both alike: compare them round by round. The processor's own time leaves out
    what other processes take; for work on a GPU give `time.perf_counter`.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for function, taken in zip((first, second), seconds, strict=True):
            begun = clock()
            function()
            if number:
                taken.append(clock() - begun)
    return seconds


def ratio(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, str]:
    """The median of the rounds' ratios of seconds, first over second, and a remark with both medians."""
    ours, theirs = in_turns(first, second, rounds, clock)
    middle = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return middle, f"{_told(statistics.median(ours))} over {_told(statistics.median(theirs))}; {rounds} rounds"


def _told(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


class PeakMemory:
    """How far this process's resident memory rises above where it stood, in bytes; Linux only."""

    def __enter__(self) -> PeakMemory:
        """Begin: what was freed goes back to the system, and the kernel's high-water mark to what is resident then."""
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._begun = self._resident("VmRSS")
        self.bytes = 0
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.bytes = max(0, self._resident("VmHWM") - self._begun)

    @staticmethod
    def _resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def published() -> Params:
    """params.yaml with FNE's sampler and loss as published: it needs no evidence."""
    from pipeline.params import load_params

    params = load_params()
    sampler = {"strategy": "fne", "posterior": "similarity", "prior": 10_000.0, "drop": None}
    parts = {
        "sampler": params.sampler.model_copy(update=sampler),
        "loss": params.loss.model_copy(update={"name": "triplet"}),
    }
    return params.model_copy(update=parts)


def synchronised(run: Callable[[], object]) -> Callable[[], None]:
    """`run`, and then wait for the GPU."""
    import torch

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    return whole


def host_waits(function: Callable[[], object]) -> list[str]:
    """Where the host waited for the GPU while `function` ran, `file:line` each; as far as torch's own check sees it."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing CUDA" in str(warning.message)]
    return [f"{'/'.join(Path(warning.filename).parts[-3:])}:{warning.lineno}" for warning in waits]


def run_stage(stage: str, folder: Path) -> tuple[float, float, int]:
    """Seconds, a processor's seconds, and the most bytes of memory, of a stage in a process of its own in `folder`.

    Memory is the sum over its processes of what Linux counts since each began its program: `ru_maxrss` counts what this
    process held before, too.
    """
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "DVC_ROOT": str(folder)}
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment)
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, _held(process.pid))
        time.sleep(0.05)
    _, status, usage = ended
    if status:
        raise RuntimeError(f"stage {stage} failed")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, peak


def _held(process: int) -> int:
    """The most bytes of memory of a process so far, with those of its children that still run."""
    folder = Path(f"/proc/{process}")
    try:
        own = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
        children = " ".join(path.read_text() for path in folder.glob("task/*/children")).split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return (0 if own is None else 1024 * int(own[1])) + sum(_held(int(child)) for child in children)
