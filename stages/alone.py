"""One `dvc exp run` or `dvc repro` at a time in a workspace: hold DVC's own lock also while a stage runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

PREPARING = "refs/exps/stash"
"""What DVC locks while it prepares an experiment that is not queued (WORKSPACE_STASH in its code)."""
LOCKS = Path(".dvc/tmp/exps")


@contextmanager
def alone() -> Iterator[None]:
    """While a stage runs in the workspace, make DVC refuse to start a `dvc exp run` there.

    DVC holds no lock on a workspace while stages run. A second `dvc exp run` is refused only at its first stage, when
    it has already changed params.yaml, moved HEAD and removed the references with which the first one would save its
    result: both are lost. With this lock it is refused before it changes anything, and prints the message given here.
    """
    if not _in_workspace():
        yield
        return
    from dvc.exceptions import DvcException
    from dvc.fs import localfs
    from dvc.lock import LockError
    from dvc.rwlock import rwlock

    told = (
        f"stage {os.environ['DVC_STAGE']} of a `dvc exp run` or `dvc repro` in this workspace; "
        "for several at once: dvc exp run --queue"
    )
    held = ExitStack()
    try:
        LOCKS.mkdir(parents=True, exist_ok=True)
        held.enter_context(rwlock(str(LOCKS), localfs, told, [], [PREPARING], False))
    except LockError:  # another experiment is being prepared; it does not disturb this one yet
        pass
    except (DvcException, OSError) as error:  # DVC's lock file may be incomplete
        file = LOCKS / "rwlock"
        click.echo(
            f"warning: {file} cannot be used ({_short(error)}), so that nothing keeps a second dvc exp run out of "
            "this workspace. When no dvc runs, delete it",
            err=True,
        )
    try:
        yield
    finally:
        with suppress(DvcException, OSError):  # an error of the lock must not fail a finished stage
            held.close()


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _in_workspace() -> bool:
    """False in `--temp` and in the queue, which work in copies, and for a stage started without DVC."""
    return "DVC_STAGE" in os.environ and os.environ.get("DVC_ROOT") == os.getcwd()
