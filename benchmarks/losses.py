"""The FNE loss step over the matrix products it cannot avoid, and what a larger memory costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measuring import PeakMemory, Row, at_most, host_waits, published, ratio, synchronised, without_gpu
from pipeline.models.memory import Memory
from pipeline.runtime.processes import uniform
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.training.objective import MatchingObjective, Pairs

BATCH, QUEUE, WIDTH = 32, 8224, 768  # FNE's
MEASURE = "over its two matrix products, forward and backward"
SIZES = (1024, 4096, 16384, 65536, 262144)


class LossStep:
    """Loss and gradient of one batch as a training has them: from the features on, every part in its usual state."""

    def __init__(self, queue: int, device: torch.device) -> None:
        """A memory that is full, and features of a model half trained: matches near 0.7, mismatches near 0.3."""
        params = published()
        sampler = params.sampler.model_copy(update={"min_matches": 0})
        self.memory = Memory(queue, WIDTH).to(device)
        self.memory.enqueue(_unit(queue, device), _unit(queue, device), torch.arange(queue, device=device))
        self.objective = MatchingObjective(sampler, params.loss, "triplet", SimilarityStatistics(), self.memory)
        image_BD = _unit(BATCH, device)
        self.features = image_BD, normalize(image_BD + _unit(BATCH, device), dim=1)
        self.ids = torch.arange(BATCH, device=device) + queue
        self.draws = uniform(1, 1, BATCH).to(device)

    def run(self) -> None:
        """Forward and backward."""
        image, text = (feature.detach().requires_grad_() for feature in self.features)
        own = Pairs(image, text, self.ids, self.ids)
        momentum = Pairs(*self.features, self.ids, self.ids)
        loss_b, _ = self.objective(own, own, momentum, 0, self.draws, 0.05, warming_up=False)
        loss_b.mean().backward()

    def enqueue(self) -> None:
        """What follows the backward pass."""
        self.memory.enqueue(self.features[0], self.features[1], self.ids)


class Products:
    """Similarities of the batch to all candidates, both ways, and with `backward` the gradients through them."""

    def __init__(self, step: LossStep, *, backward: bool = True) -> None:
        """Candidates side by side already."""
        self.features, self.backward = step.features, backward
        memory = step.memory
        self.candidates = [
            torch.cat([part, queue]) for part, queue in zip(self.features, (memory.image, memory.text), strict=True)
        ]
        self.gradient = torch.randn(BATCH, len(self.candidates[0]), device=memory.image.device)

    def run(self) -> None:
        """Forward, and backward where asked."""
        image, text = (feature.detach().requires_grad_(self.backward) for feature in self.features)
        products = [image @ self.candidates[1].T, text @ self.candidates[0].T]
        if self.backward:
            torch.autograd.backward(products, [self.gradient, self.gradient])


def rows() -> Iterator[Row]:
    """The loss step on this machine's CPU and GPU, and the memory's sizes."""
    cpu = torch.device("cpu")
    step, what = LossStep(QUEUE, cpu), "FNE loss step (B 32, Q 8 224, D 768, float32)"
    value, remark = ratio(step.run, Products(step).run, 40)
    yield at_most(what, MEASURE, value, 1.1, remark)
    value, remark = ratio(step.run, Products(step, backward=False).run, 40)
    yield Row(
        what,
        "over the forward products alone: the step back-propagates the drawn negative only",
        value,
        "",
        None,
        remark,
    )
    yield from on_gpu()
    yield from _sizes(cpu)


def on_gpu() -> Iterator[Row]:
    """The loss step on a GPU."""
    what, waiting = "the same on a GPU", "host synchronisations in a step"
    if not torch.cuda.is_available():
        yield without_gpu(what, waiting, "≤ 0")
        yield without_gpu(what, MEASURE, "≤ 1.5")
        return
    step = LossStep(QUEUE, torch.device("cuda"))
    products = Products(step)
    step.run()

    def whole() -> None:
        step.run()
        step.enqueue()

    waits = host_waits(whole)
    yield at_most(what, waiting, len(waits), 0, "; ".join(waits) or "torch's synchronisation check saw none")
    value, remark = ratio(synchronised(step.run), synchronised(products.run), 100, time.perf_counter)
    yield at_most(what, MEASURE, value, 1.5, remark)


def _sizes(device: torch.device) -> Iterator[Row]:
    """Each size's step time and bytes, then what the largest adds for a step."""
    seconds, costs = {}, []
    for size in SIZES:
        step = LossStep(size, device)
        step.run()
        times = []
        with PeakMemory() as peak:
            for _ in range(9):
                begun = time.process_time()
                step.run()
                step.enqueue()
                times.append(time.process_time() - begun)
        seconds[size] = statistics.median(times)
        stored = sum(buffer.nbytes for buffer in step.memory.buffers())
        costs.append(f"{size}: {1000 * seconds[size]:.1f} ms, {stored / 1e6:.0f} MB")
        side = step.memory.image.nbytes
    growth = (seconds[SIZES[-1]] / seconds[SIZES[-2]]) / (SIZES[-1] / SIZES[-2])
    what = f"memory of {SIZES[0]} … {SIZES[-1]}"
    yield at_most(what, "step time by size, last fourfold step: 1 is linear", growth, 1.15, "; ".join(costs))
    value, remark = ratio(step.run, Products(step).run, 9)
    yield at_most(f"memory of {SIZES[-1]}", MEASURE, value, 1.3, remark)
    share = peak.bytes / side
    remark = f"{peak.bytes / 1e6:.0f} MB beside {side / 1e6:.0f} MB of features a side, at the largest size"
    yield at_most(what, "memory a step takes, over one side of the queue: a copy would be 1", share, 0.9, remark)


def _unit(count: int, device: torch.device) -> Tensor:
    """Features that share a direction, as those of real towers do."""
    spread = normalize(torch.randn(count, WIDTH, device=device), dim=1)
    spread[:, 0] += 0.65
    return normalize(spread, dim=1)
