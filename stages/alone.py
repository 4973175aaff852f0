"""One `dvc exp run` at a time in a workspace: DVC's own lock, held where DVC does not hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREPARING = "refs/exps/stash"
"""What DVC locks while it prepares an experiment that is not queued; in its code, WORKSPACE_STASH."""
LOCKS = Path(".dvc/tmp/exps")


@contextmanager
def alone() -> Iterator[None]:
    """While a stage of a workspace's `dvc exp run` works, have DVC refuse to begin another one.

    DVC keeps no lock while stages run. A second `dvc exp run` in the same workspace is refused only at its first stage,
    when it has already moved HEAD and removed the references by which the first one would have kept its result: both
    are lost. With its lock held it is refused before it touches anything, and says what this function tells it.
    """
    with ExitStack() as held:
        if _in_workspace_experiment():
            from dvc.fs import localfs
            from dvc.lock import LockError
            from dvc.rwlock import rwlock

            LOCKS.mkdir(parents=True, exist_ok=True)
            told = (
                f"stage {os.environ.get('DVC_STAGE', '')} of another `dvc exp run` in this workspace; "
                "for several at once: dvc exp run --queue"
            )
            with suppress(LockError):  # somebody prepares an experiment just now: too early to disturb this one
                held.enter_context(rwlock(str(LOCKS), localfs, told, [], [PREPARING], False))
        yield


def _in_workspace_experiment() -> bool:
    """Not in `--temp` or the queue, which have copies of their own, nor in `dvc repro`, which moves nothing."""
    return "DVC_EXP_NAME" in os.environ and os.environ.get("DVC_ROOT") == os.getcwd()
