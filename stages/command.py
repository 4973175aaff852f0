"""Shared by the commands of all stages: one line for a user's error, and settings of libraries."""

from __future__ import annotations

import atexit
import ctypes
import errno
import functools
import gc
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from threading import current_thread, main_thread

import click

from pipeline.errors import InputError, printable
from stages.alone import alone
from stages.recorded import recorded

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # with spinning threads, two stages at once become very slow
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not work with forked workers
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # pipeline.tracking prints one line instead of MLflow's sixty
}
DIE_WITH_PARENT = ("DVC_STAGE", "WORLD_SIZE")
"""Environment variables of a stage started by DVC or torch's launcher, which a kill would leave running."""
FIRST_REPORTS = 10.0  # seconds in which the first of several processes may report the same error
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stage(command: Callable[..., None]) -> Callable[..., None]:
    """Print an error that a user can correct as one `error: …` line and exit with 1; others keep their traceback.

    These are an `InputError`, a missing output of an earlier stage, and a full disk.
    """

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        if any(name in os.environ for name in DIE_WITH_PARENT):
            _die_with_parent()
        keep_memory()
        collect_seldom()
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from pipeline.paths import maker

        earlier = signal.signal(signal.SIGTERM, _end) if current_thread() is main_thread() else None
        try:
            with alone(), recorded():
                command(*arguments, **options)
        except InputError as error:
            raise _Refused(str(error)) from error
        except FileNotFoundError as error:
            made_by = maker(error.filename or "")
            if made_by is None:
                raise
            raise _Refused(f"{error.filename}: not found; `dvc repro {made_by}` makes it") from error
        except Exception as error:
            full = _no_room(error)
            if full is None:
                raise
            place = getattr(full, "filename", None) or "the output"
            raise _Refused(
                f"{place}: no space left on the disk; what was there before is unchanged. "
                "Make room and run the same command again"
            ) from error
        finally:
            if earlier is not None:
                signal.signal(signal.SIGTERM, earlier)

    return run


def _end(number: int, _frame: object) -> None:
    """Same as Ctrl-C: temporary files are removed, and the run in MLflow is marked as killed."""
    raise SystemExit(128 + number)


def _die_with_parent() -> None:
    """On Linux, request SIGTERM when the parent process ends; on other systems an orphan runs to its end."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def keep_memory() -> None:
    """Make glibc keep the memory that a process frees, up to blocks of 1 GiB; without glibc, do nothing.

    Otherwise it returns large activations to the system after each batch and requests them again, and the system
    clears every page: three quarters of the time of a convolutional tower.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@functools.cache
def collect_seldom() -> None:
    """Search for garbage after 20 000 new objects, not 700, and not at the end.

    Libraries make a million objects that live as long as the process: searching them took a third of a stage's start
    and end.
    """
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)


def _no_room(error: BaseException | None) -> BaseException | None:
    """The error for a full disk, if it caused `error`: torch chains it, safetensors has it only in its message."""
    while error is not None:
        told = re.search(r"\(os error (\d+)\)", str(error))
        if (int(told[1]) if told else getattr(error, "errno", None)) in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None


class _Refused(click.ClickException):
    def show(self, file: object = None) -> None:
        """Print the error; of several processes that have it, only the first does: the launcher ends the others."""
        if os.environ.get("RANK", "0") != "0":
            time.sleep(FIRST_REPORTS)  # still there afterwards: the error is this process's own
        click.secho(f"error: {printable(self.message)}", err=True, fg="red")
