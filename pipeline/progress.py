"""Progress bars of long work, only on a terminal, so that logs and pipes stay clean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

_shown: ContextVar[bool] = ContextVar("_shown", default=False)  # a validation inside an epoch shows no second bar


def progress(items: Iterable[Item], *, label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`, with a bar, count and remaining time on standard error when that is a terminal.

    Of several processes, only the first shows one.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal or _shown.get() or os.environ.get("RANK", "0") != "0":
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    _shown.set(True)
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total, description=label)
    finally:
        _shown.set(False)
