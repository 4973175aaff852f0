"""The child process that copies a run to a server while the run's stage is running.

The stage waits only for this process, and at most `AT_THE_END`; then the process is ended. So a slow or broken server
cannot stop the stage.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipeline.tracking.store import reason
from pipeline.tracking.sync import Copier

EVERY = 60.0  # seconds between two copies while the stage runs
AT_THE_END = 4.0  # seconds that a stage waits for the last copy
COPIED = "copied"


class Follower:
    """The stage's handle of the child, which ends with the stage, also after a kill."""

    def __init__(self) -> None:
        """Start the child early, so that its imports are done before the first copy."""
        code = f"from pipeline.tracking.follower import follow; follow({os.getpid()}, {EVERY})"
        path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        # no retries: the first request may have succeeded; the next copy checks that
        own = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the stage, which then ends this process
        )

    def start(self, run_id: str) -> None:
        """Make the child copy a run, now and every minute."""
        with suppress(OSError):  # the child has ended; `end` returns the reason
            if stdin := self._process.stdin:
                stdin.write(f"{run_id}\n".encode())
                stdin.flush()

    def end(self) -> str | None:
        """Copy what is new, wait for that, and end the child; returns why the copy is incomplete, or None."""
        with self._process as child:
            try:
                said = child.communicate(b"end\n", AT_THE_END)[0].decode().strip()
            except subprocess.TimeoutExpired:
                said = f"the copy was not done {AT_THE_END:g} s after the stage"
            finally:
                child.kill()
        return None if said == COPIED else said or f"the process that copies ended with status {child.returncode}"


def follow(parent: int, every: float) -> None:
    """The child's main function: reads a run's id, then copies the run until its stage (process `parent`) ends."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    copier = Copier()
    older = copier.pending()  # what earlier stages could not copy
    run_id = os.read(0, 33).decode().strip()
    while len(run_id) == 32:  # else the stage ended before it started a run
        ended, result = _ends_within(0), COPIED
        try:
            copier.copy(run_id)
        except Exception as error:  # any error of a server
            result = reason(error, copier.uri)
        if ended:
            print(result)
            return
        while result == COPIED and not _ends_within(0) and (other := next(older, None)):
            with suppress(Exception):
                copier.copy(other.info.run_id, wait=0)
        _ends_within(every)


def _ends_within(seconds: float) -> bool:
    """Whether the stage requests the end within that time."""
    return bool(select.select([0], [], [], seconds)[0])


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
