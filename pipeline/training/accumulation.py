"""Gradient accumulation: which batches of an epoch share one step of the optimiser."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Where a batch stands among those whose gradients are averaged before the weights change."""

    place: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it opens the window."""
        return self.place == 0

    @property
    def last(self) -> bool:
        """Whether the weights change with it."""
        return self.place == self.size - 1


ALONE = Window()


def window_of(batch: int, batches: int, accumulate: int) -> Window:
    """The window of batch number `batch` of an epoch; the epoch's last one may be smaller."""
    opened = batch - batch % accumulate
    return Window(batch - opened, min(accumulate, batches - opened))
