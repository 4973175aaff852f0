"""A training step of heads over frozen features, over the matrix products that it cannot avoid."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import normalize

from benchmarks.measuring import Row, at_most, published, ratio
from pipeline.features.inputs import Batch
from pipeline.models.heads import Head
from pipeline.models.towers import MatchingModel
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import Training

BATCH, QUEUE, WIDTH = 128, 4096, 512
IMAGE, TEXT = 1280, 384  # EfficientNet-Lite0's and MiniLM's features


class HeadsStep:
    """Forward, backward and optimiser step of both heads with FNE's loss and a full memory, as a training has them."""

    def __init__(self) -> None:
        """Captions' features are a fixed map of their images', so that pairs match more than others."""
        params = published()
        params = params.model_copy(update={"memory": params.memory.model_copy(update={"size": QUEUE})})
        heads = (Head(IMAGE, WIDTH), Head(TEXT, WIDTH))
        model = MatchingModel(nn.Identity(), nn.Identity(), *heads, width=WIDTH)
        with tempfile.TemporaryDirectory() as folder:
            none = None  # inputs are read by `run` alone
            self.training = Training(params, model, none, none, Accelerator(cpu=True), Checkpoint(Path(folder)))  # type: ignore[arg-type]
        ids = torch.arange(BATCH)
        images = torch.randn(BATCH, IMAGE)
        self.batch = Batch(images, images @ torch.randn(IMAGE, TEXT) / IMAGE**0.5, ids, ids, 0, BATCH)
        for _ in range(QUEUE // BATCH):
            self.run()

    def run(self) -> None:
        """One step."""
        self.training.step(self.batch, warming_up=False)


class Products:
    """The products of both heads and both momentum heads, of all similarities, and the gradients through them."""

    def __init__(self, step: HeadsStep) -> None:
        """Heads without biases and activations, and candidates side by side already."""
        self.inputs = step.batch.images, step.batch.texts
        self.heads = [
            nn.Sequential(nn.Linear(width, 2 * WIDTH, bias=False), nn.Linear(2 * WIDTH, WIDTH, bias=False))
            for width in (IMAGE, TEXT)
        ]
        self.candidates = [normalize(torch.randn(BATCH + QUEUE, WIDTH), dim=1) for _ in range(2)]
        self.gradient = torch.randn(BATCH, BATCH + QUEUE)

    def run(self) -> None:
        """Forward and backward."""
        with torch.no_grad():
            for head, feature in zip(self.heads, self.inputs, strict=True):
                head(feature)
        vectors = [head(feature) for head, feature in zip(self.heads, self.inputs, strict=True)]
        products = [
            vector @ candidates.T for vector, candidates in zip(vectors, reversed(self.candidates), strict=True)
        ]
        torch.autograd.backward(products, [self.gradient, self.gradient])


def rows() -> Iterator[Row]:
    """The step with FNE's triplet loss."""
    step = HeadsStep()
    value, remark = ratio(step.run, Products(step).run, 40)
    what = f"heads step (B {BATCH}, Q 4 096, D {WIDTH}, float32)"
    yield at_most(what, "over the products of heads and similarities, forward and backward", value, 1.4, remark)
