"""The global batch on one or several processes: threads, gathering, and draws that do not depend on their number."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

COARSE_STEPS, FINE_STEPS = 1 << 22, 1 << 30
LONGEST_WAIT = timedelta(days=1)  # of one process for the others, whose shards may take longer
SMALL_MODEL = 5_000_000  # parameters; below it, a second thread inside an operator makes training slower


def use_threads(parameters: int) -> None:
    """Use all cores for a large model, one for a small one with short operators; `OMP_NUM_THREADS` has precedence.

    With one thread, small runs are also bit-identical on machines with different numbers of cores.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if parameters < SMALL_MODEL else os.cpu_count() or 1)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group if a launcher started this process; in training, accelerate does this."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(own_device())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=LONGEST_WAIT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def own_device() -> torch.device:
    """This process's GPU, or the CPU if there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def seed_own_draws(seed: int, step: int) -> None:
    """Begin PyTorch's random numbers of a step anew, others in each process; with one process, they go on.

    Otherwise dropout would leave out the same places in every process, until their parts of a batch differ in size; and
    a resumed training would need the random state of each, while a checkpoint has the first one's.
    """
    if process_count() > 1:
        drawn = np.random.SeedSequence([seed, step, process_index()]).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    if process_count() > 1:
        distributed.all_reduce(torch.zeros(1))


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place."""
    if process_count() == 1:
        return
    for tensor in tensors:
        distributed.all_reduce(tensor)
    torch._foreach_div_(list(tensors), process_count())


def process_count() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_index() -> int:
    """The index of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_span(global_size: int) -> range:
    """This process's contiguous part of a global batch."""
    edges = _edges(global_size)
    return range(edges[process_index()], edges[process_index() + 1])


def worked_span(global_size: int) -> range:
    """`local_span`; where that is empty, a row of another process, because a step needs all processes.

    That row has no effect: `gather` leaves it out, and its loss counts `weight_of_rows`.
    """
    own = local_span(global_size)
    first = min(own.start, global_size - 1)
    return own or range(first, first + 1)


def weight_of_rows(global_size: int) -> int:
    """What the rows of `worked_span` count in a sum that becomes a mean over processes; 0 for another process's row."""
    return process_count() if local_span(global_size) else 0


def _edges(global_size: int) -> list[int]:
    """Where each process's part of a global batch begins, and where the last one ends."""
    edges: list[int] = np.linspace(0, global_size, process_count() + 1).round().astype(int).tolist()
    return edges


def gather(rows: Tensor, global_size: int, *, differentiable: bool = False) -> Tensor:
    """All processes' rows, in the global batch's order.

    Args:
        rows: (b, …), this process's part of the batch, by `local_span` or `worked_span`.
        global_size: rows of the global batch.
        differentiable: whether the gradient flows back to the other processes' rows.
    """
    if process_count() == 1:
        return rows
    return _all_rows(rows if differentiable else rows.detach(), np.diff(_edges(global_size)).tolist())


def gather_uneven(rows: Tensor) -> Tensor:
    """All processes' rows (b, …), of any number each, in the processes' order; on the CPU."""
    if process_count() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long) for _ in range(process_count())]
    distributed.all_gather(counts, torch.tensor([len(rows)]))
    return _all_rows(rows, [int(count) for count in counts])


def _all_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """All processes' rows, of which each has one of `sizes`; what they exchange is padded to the largest."""
    padded = torch.cat([rows, rows.new_zeros((max(sizes) - len(rows), *rows.shape[1:]))]).contiguous()
    parts: tuple[Tensor, ...] = _AllGather.apply(padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def same_for_all(tensor: Tensor) -> Tensor:
    """The first process's tensor, in all processes; all give one of this shape."""
    if process_count() > 1:
        distributed.broadcast(tensor, 0)
    return tensor


def said_by_the_first(text: str) -> str:
    """The first process's text, in all processes."""
    if process_count() > 1:
        told: list[Any] = [text]
        distributed.broadcast_object_list(told)
        return str(told[0])
    return text


class _AllGather(torch.autograd.Function):
    """Forward: every process's rows. Backward: the sum over processes of the gradients for this one's rows."""

    @staticmethod
    def forward(_ctx: Any, rows: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(rows) for _ in range(process_count())]
        distributed.all_gather(parts, rows)
        return tuple(parts)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = torch.stack(gradients)
        distributed.all_reduce(gradient)
        return gradient[process_index()]


def uniform(seed: int, step: int, batch_size: int) -> Tensor:
    """Two draws in (0, 1) for every position in the global batch, (2, B) float64; depends only on seed and step.

    A draw is the middle of one of 2^52 steps. Its step among `COARSE_STEPS` is drawn first and separately:
    `draw_negative` uses only this for few candidates.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    coarse = generator.integers(COARSE_STEPS, size=(2, batch_size))
    fine = (generator.integers(FINE_STEPS, size=(2, batch_size)) + 0.5) / FINE_STEPS
    return torch.from_numpy((coarse + fine) / COARSE_STEPS)
