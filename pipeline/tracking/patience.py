"""How long a stage waits for its store, all requests taken together.

A request has a timeout, but many slow answers add up, and a timeout between bytes has no bound on a server that sends
one now and then. So each request runs in a thread that is left behind when the time is used up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pipeline.tracking.store import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient

Answer = TypeVar("Answer")

# In timeouts of one request, two seconds unless the environment says otherwise:
BEFORE_THE_END = 1.5  # what a stage waits until it asks no more,
IN_ALL = 2.25  # and together with what it waits when it ends
SLOW = 0.25  # seconds: quicker answers come from a server that is well, and may also take
SHARE_OF_TIME = 0.01  # of the time that the stage has run
UPLOAD = 1e6  # bytes a second, and SLOW for each file: what is uploaded as quickly is not counted as waiting
UPLOADS = ("log_artifact", "log_model_artifact")
NEVER_LATE = ("create_run", "create_logged_model", "create_model_version", "update_run")
"""Requests that leave something double, or a run running, if the store does them after they were told again."""


class TooSlowError(Exception):
    """The time for waiting is used up."""


class Patience:
    """Counts what one stage waits for its store, and ends a wait that takes too long."""

    def __init__(self) -> None:
        """Begin to count now."""
        timeout = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or PATIENCE["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        self._limit, self._in_all = BEFORE_THE_END * timeout, IN_ALL * timeout
        self._began = time.monotonic()
        self._slowly = self._quickly = 0.0
        self._failed = False
        self.unsettled: set[str] = set()
        """Requests of `NEVER_LATE` whose outcome nobody knows: the store may still do them."""

    @property
    def waited(self) -> float:
        """Seconds so far, uploads left out that were quick for their size."""
        return self._slowly + self._quickly

    def at_the_end(self) -> None:
        """The stage ends: what was kept back for this may be used."""
        self._limit = self._in_all

    def take(self, hold: Callable[[float], bool]) -> bool:
        """Whether `hold`, which waits for as many seconds as it is given, succeeds in the time that is left."""
        began = time.monotonic()
        try:
            return hold(max(0.0, self._left()))
        finally:
            self._count(time.monotonic() - began)

    def store_failed(self) -> None:
        """No time is free from now on."""
        self._failed = True

    def wait(self, request: Callable[[], Answer], free: float = 0.0) -> Answer:
        """The answer to `request`; its first `free` seconds are not counted unless the store has failed before.

        Raises:
            TooSlowError: when the time is used up; the request may still be done.
            Exception: what the request raises.
        """
        left = self._left()
        if left <= 0:
            raise TooSlowError(f"{self.waited:.1f} s were waited for it")
        free = 0.0 if self._failed else free
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                answers.append(request())
            except BaseException as error:
                errors.append(error)

        thread = Thread(target=work, daemon=True)
        began = time.monotonic()
        thread.start()
        try:
            thread.join(left + free)
        except BaseException:  # Ctrl-C: were the request not let finish, it might begin a run that nobody ends
            thread.join(left)
            raise
        finally:
            self._count(max(0.0, time.monotonic() - began - free))
        if errors:
            raise errors[0]
        if not answers:
            self.store_failed()
            raise TooSlowError(f"{self.waited:.1f} s were waited for it")
        return answers[0]

    def _left(self) -> float:
        # nothing has to be kept back for the end of a server that is well
        healthy = max(self._in_all, SHARE_OF_TIME * (time.monotonic() - self._began))
        return min(self._limit - self._slowly, healthy - self.waited)

    def _count(self, seconds: float) -> None:
        if seconds > SLOW:
            self._slowly += seconds
        else:
            self._quickly += seconds


class _Bounded:
    """A client whose every request is waited for with patience, and no longer."""

    def __init__(self, client: MlflowClient, patience: Patience) -> None:
        self._client, self._patience = client, patience

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def request(*arguments: Any, **named: Any) -> Any:
            free = SLOW + Path(arguments[1]).stat().st_size / UPLOAD if name in UPLOADS else 0.0
            if name in NEVER_LATE:
                return self._patience.wait(lambda: self._settled(name, lambda: method(*arguments, **named)), free)
            return self._patience.wait(lambda: method(*arguments, **named), free)

        return request

    def _settled(self, name: str, request: Callable[[], Answer]) -> Answer:
        """The answer to `request`, noted as unsettled until the store itself has said what became of it."""
        from mlflow.exceptions import RestException

        self._patience.unsettled.add(name)
        try:
            answer = request()
        except RestException:  # refused; whatever else is raised says nothing about the store
            self._patience.unsettled.discard(name)
            raise
        self._patience.unsettled.discard(name)  # also of a request that was given up and answered since
        return answer


def bounded(client: MlflowClient, patience: Patience) -> MlflowClient:
    """`client` with every request under `patience`."""
    return cast("MlflowClient", _Bounded(client, patience))
