"""A second processor core for small towers: independent work runs side by side, with the same results.

An operator of a small tower is too short to be divided among threads. A whole tower is not, and PyTorch releases
Python's lock inside its operators.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.runtime.processes import process_count

T = TypeVar("T")


class Beside:
    """Does work in a second thread, or in the caller's where no core is free.

    Work must not draw from PyTorch's random state, which the threads share; grad mode and autocast are a thread's own.
    """

    def __init__(self, *, free: bool) -> None:
        """`free`: whether a core is, see `core_is_free`."""
        self.free = free
        self._pool = ThreadPoolExecutor(1)

    def start(self, work: Callable[..., T], *arguments: object) -> Callable[[], T]:
        """Start the work; the returned function waits for its result, or does the work itself."""
        return self._pool.submit(work, *arguments).result if self.free else partial(work, *arguments)


class BatchVectors:
    """The vectors of a batch, both sides encoded, with backward passes that run side by side where a core is free.

    There they are leaves of the loss's graph, and `backward` carries their gradients on to the towers.
    """

    def __init__(self, encoded: tuple[Tensor, Tensor], beside: Beside) -> None:
        """`encoded`: of the images and of the captions, whose graphs share no parameter; (b, D) each."""
        self._encoded, self._beside = encoded, beside
        sides = (side.detach().requires_grad_() for side in encoded) if beside.free else encoded
        self.image_bD, self.text_bD = sides

    def backward(self, *_: object) -> None:
        """Add the parameters' gradients, after the loss has been propagated back to the vectors.

        The arguments are those of `CachedVectors.backward`; nothing here needs them.
        """
        if not self._beside.free:  # it has been propagated back to the parameters
            return
        assert self.image_bD.grad is not None and self.text_bD.grad is not None
        done = self._beside.start(_carry_on, self._encoded[1], self.text_bD.grad)
        _carry_on(self._encoded[0], self.image_bD.grad)
        done()


def core_is_free(device: torch.device) -> bool:
    """Whether a second core has nothing to do: small towers on a CPU (see `use_threads`), in one process."""
    if device.type != "cpu" or process_count() > 1 or "OMP_NUM_THREADS" in os.environ:
        return False
    return torch.get_num_threads() == 1 and (os.cpu_count() or 1) > 1


def _carry_on(vectors: Tensor, gradient: Tensor) -> None:
    if vectors.requires_grad:  # not those of a frozen tower
        vectors.backward(gradient)
