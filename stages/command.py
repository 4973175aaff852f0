"""What every stage's command shares: one line for a user's mistake, and quiet, bounded libraries."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import current_thread, main_thread

import click

from pipeline.errors import InputError, printable
from stages.alone import alone
from stages.recorded import recorded

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait bring two stages at once to a crawl
    "TOKENIZERS_PARALLELISM": "false",  # its threads and forked workers do not mix
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # pipeline.tracking says in one line what MLflow says in sixty
}
DIE_WITH_PARENT = ("DVC_STAGE", "WORLD_SIZE")
"""Environment of stages that somebody waits for, DVC or torch's launcher: killed, these would leave them behind."""
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stage(command: Callable[..., None]) -> Callable[..., None]:
    """Print what a user can mend as one `error: …` line and exit with 1; the rest keeps its traceback.

    That is an `InputError`, a file that an earlier stage has not made, and a full disk.
    """

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        if any(name in os.environ for name in DIE_WITH_PARENT):
            _die_with_parent()
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
    """As Ctrl-C does: half files are removed, and the run in MLflow is told."""
    raise SystemExit(128 + number)


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the process that started this one is gone; elsewhere an orphan works to its end."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _no_room(error: BaseException | None) -> BaseException | None:
    """What says that the disk is full, if `error` comes of that: torch hides it behind its own, safetensors in text."""
    while error is not None:
        told = re.search(r"\(os error (\d+)\)", str(error))
        if (int(told[1]) if told else getattr(error, "errno", None)) in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None


class _Refused(click.ClickException):
    def show(self, file: object = None) -> None:
        click.secho(f"error: {printable(self.message)}", err=True, fg="red")
