"""What every stage's command shares: one line for a user's mistake, and quiet, bounded libraries."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable

import click

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait bring two stages at once to a crawl
    "TOKENIZERS_PARALLELISM": "false",  # its threads and forked workers do not mix
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def stage(command: Callable[..., None]) -> Callable[..., None]:
    """Print an `InputError` or a full disk as one `error: …` line and exit with 1; the rest keeps its traceback."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from pipeline.errors import InputError

        try:
            command(*arguments, **options)
        except InputError as error:
            raise _Refused(str(error)) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            place = error.filename or "the output"
            raise _Refused(
                f"{place}: no space left on the disk; what was there before is unchanged. "
                "Make room and run the same command again"
            ) from error

    return run


class _Refused(click.ClickException):
    def show(self, file: object = None) -> None:
        click.secho(f"error: {self.message}", err=True, fg="red")
