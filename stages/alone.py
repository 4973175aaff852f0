"""One `dvc exp run` or `dvc repro` at a time in a workspace: DVC's own lock, held where DVC does not hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

PREPARING = "refs/exps/stash"
"""What DVC locks while it prepares an experiment that is not queued; in its code, WORKSPACE_STASH."""
LOCKS = Path(".dvc/tmp/exps")


@contextmanager
def alone() -> Iterator[None]:
    """While a stage works in the workspace, have DVC refuse to begin a `dvc exp run` there.

    DVC keeps no lock on a workspace while stages run. A second `dvc exp run` is refused only at its first stage, when
    it has already changed params.yaml, moved HEAD and removed the references by which a first one would have kept its
    result: both are lost. With its lock held it is refused before it touches anything, and says what is told here.
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
    except LockError:  # somebody prepares an experiment just now: too early to disturb this one
        pass
    except (DvcException, OSError) as error:  # DVC writes its file in place: a kill or a full disk leaves half of it
        file = LOCKS / "rwlock"
        click.echo(
            f"warning: {file} cannot be used ({_short(error)}), so that nothing keeps a second dvc exp run out of "
            "this workspace. When no dvc runs, delete it",
            err=True,
        )
    try:
        yield
    finally:
        with suppress(DvcException, OSError):  # the work is done, whatever became of the lock
            held.close()


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _in_workspace() -> bool:
    """Not in `--temp` or the queue, which have copies of their own, nor in a stage that somebody starts by hand."""
    return "DVC_STAGE" in os.environ and os.environ.get("DVC_ROOT") == os.getcwd()
