"""Start a stage as one process or as several, on its own GPUs where workers of a queue share a machine."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

GPUS = "FNE_GPUS"
"""Environment variable: the GPUs that the queue's workers on this machine share, such as `0,1`."""

PAUSE = 1.0  # seconds between two searches for a free GPU

_held: list[BaseFileLock] = []  # until this process ends


def started_together(stage: str, processes: int) -> bool:
    """Run a stage as several processes and wait for them; False if this process must do the work itself.

    False for a single process, and in a process started here, by torchrun or by `accelerate launch`.

    Raises:
        InputError: when there are GPUs, but fewer than processes; when a process was killed.
        SystemExit: with the status of the failed process, or that of a signal.
    """
    if _in_group():
        return False
    take_gpus(processes)
    if processes == 1:
        return False
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise InputError(
            f"launch.processes = {processes}: {gpus} GPUs are to be had here, and each process takes one; lower it, or "
            "hide them with CUDA_VISIBLE_DEVICES= (empty) to run on the CPU"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    for part in ("", ".agent.server.api"):  # which has a level of its own; the processes report their own errors
        logging.getLogger(f"torch.distributed.elastic{part}").setLevel(logging.CRITICAL)
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={processes}", "-m", f"stages.{stage}"]))
    except ChildFailedError as error:
        first = error.get_first_failure()[1]  # the launcher has ended the others
        _report_kill(first, processes)
        raise SystemExit(max(1, first.exitcode)) from None
    except SignalException as error:  # the launcher has ended the processes; as `stages.command` ends a single one
        raise SystemExit(128 + error.sigval) from None
    return True


def _report_kill(failure: ProcessFailure, processes: int) -> None:
    """A process that was killed could not report it.

    Raises:
        InputError: when it was.
    """
    if failure.exitcode < 0:
        memory = ", as Linux does where memory is short" if failure.exitcode == -signal.SIGKILL else ""
        raise InputError(
            f"process {failure.local_rank + 1} of {processes} was killed by {failure.signal_name()}{memory}; "
            "run the same command again"
        )


@contextmanager
def atomic_folder_of_all(path: Path) -> Iterator[Path]:
    """The first process's `atomic_folder`, in which all of a process group write; they leave it together."""
    from pipeline.files import atomic_folder
    from pipeline.runtime.processes import process_index, said_by_the_first, wait_for_all

    with nullcontext("") if process_index() else atomic_folder(path) as folder:
        yield Path(said_by_the_first(str(folder)))
        wait_for_all()


def take_gpus(count: int) -> None:
    """Wait for `count` free GPUs of `FNE_GPUS` and reserve them; does nothing without that variable.

    They are released when this process ends, also by a kill. It sets `CUDA_VISIBLE_DEVICES`, so call it before CUDA is
    initialised.

    Raises:
        InputError: when `FNE_GPUS` has too few GPUs, or one twice.
    """
    named = os.environ.get(GPUS)
    if named is None or _held or _in_group():
        return
    gpus = [gpu.strip() for gpu in named.split(",")]
    if not all(gpu.replace("-", "").isalnum() for gpu in gpus) or len(set(gpus)) < len(gpus):
        raise InputError(f"{GPUS}={named!r}: expected different numbers or UUIDs of GPUs, as 0,1")
    if count > len(gpus):
        raise InputError(f"{GPUS}={named!r}: names {len(gpus)} GPUs, launch.processes asks for {count}")
    folder = Path(tempfile.gettempdir()) / f"fne-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    _held.extend(_free(folder, gpus, count))
    if not _held:
        click.echo(f"waiting for {count} of the GPUs {named}", err=True)
    while not _held:
        time.sleep(PAUSE)
        _held.extend(_free(folder, gpus, count))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(Path(lock.lock_file).stem for lock in _held)


def _free(folder: Path, gpus: list[str], count: int) -> list[BaseFileLock]:
    """Locks on `count` free GPUs, or none: holding some while waiting for more could be a deadlock."""
    from filelock import FileLock, Timeout

    locks: list[BaseFileLock] = []
    for gpu in gpus:
        lock: BaseFileLock = FileLock(folder / f"{gpu}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        locks.append(lock)
        if len(locks) == count:
            return locks
    for lock in locks:
        lock.release()
    return []


def _in_group() -> bool:
    return "WORLD_SIZE" in os.environ
