"""Gradient accumulation: which batches of an epoch share one step of the optimiser."""

from __future__ import annotations

import math
from typing import NamedTuple


class Window(NamedTuple):
    """A batch's position among those whose gradients are averaged before one optimiser step."""

    place: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the window's first batch."""
        return self.place == 0

    @property
    def last(self) -> bool:
        """Whether the optimiser steps after it."""
        return self.place == self.size - 1


ALONE = Window()


def window_of(batch: int, batches: int, accumulate: int) -> Window:
    """The window of batch number `batch` of an epoch; the epoch's last one may be smaller."""
    opened = batch - batch % accumulate
    return Window(batch - opened, min(accumulate, batches - opened))


def window_end(done: int, batches: int, accumulate: int) -> int:
    """How many batches of the epoch are done at the end of the window in which batch number `done` - 1 is."""
    return min(batches, math.ceil(done / accumulate) * accumulate)
