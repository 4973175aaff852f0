"""Progress bars of long work, only on a terminal, so that logs and pipes stay clean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

_shown: ContextVar[bool] = ContextVar("_shown", default=False)  # a validation inside an epoch shows no second bar


def progress(items: Iterable[Item], *, label: str, total: int | None = None, rows: int = 1) -> Iterator[Item]:
    """Yield `items`, with a bar, count, rows a second and remaining time on standard error when that is a terminal.

    An item stands for `rows` images, captions or pairs. Of several processes, only the first shows one.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{rows * task.speed:.0f}/s")

    console = Console(stderr=True)
    if not console.is_terminal or _shown.get() or os.environ.get("RANK", "0") != "0":
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    _shown.set(True)
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total, description=label)
    finally:
        _shown.set(False)
