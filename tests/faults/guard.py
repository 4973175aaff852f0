"""What reading a file may cost: 5 seconds of a processor, a minute of waiting, 1 GiB of memory."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SECONDS = 5.0
TRACED = 6.0  # times as many under `make coverage`, which notes every line
SECONDS_WAITING = 60.0  # by the clock, on a machine that may be busy with something else
BYTES = 1 << 30
STATM = Path("/proc/self/statm")


class TooSlow(BaseException):
    """Not an Exception: readers turn those into their own error."""


class TooLarge(BaseException):
    """Likewise."""


@contextmanager
def bounded() -> Iterator[None]:
    """Stop what takes longer than `SECONDS`, waits longer than `SECONDS_WAITING` or asks for more than `BYTES`.

    Raises:
        TooSlow: when it did.
        TooLarge: when it did, even where it made another error of that.
    """
    timers = {  # the first of this process, not of the clock: other work slows nothing down
        (signal.SIGPROF, signal.ITIMER_PROF): SECONDS if sys.gettrace() is None else TRACED * SECONDS,
        (signal.SIGALRM, signal.ITIMER_REAL): SECONDS_WAITING,
    }
    before = {number: signal.signal(number, _stop) for number, _ in timers}
    for (_, timer), seconds in timers.items():
        signal.setitimer(timer, seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if STATM.exists():
        used = int(STATM.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    try:
        yield
    except Exception as error:
        if _of_memory(error):
            raise TooLarge from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, timer in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _of_memory(error: BaseException | None) -> bool:
    """Whether no memory was left, also where torch or Arrow say so in words of their own."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
