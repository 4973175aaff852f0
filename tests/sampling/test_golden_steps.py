"""Six consecutive steps agree with the published code: weights, losses, gradients, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.objectives.triplet import triplet_loss
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import fne_weights, hardest_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "steps.npz"
STEPS = 6
MARGIN = 0.2
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


class Step(NamedTuple):
    """What the published code was given and what it answered, and the statistics after this step's update."""

    golden: dict[str, Tensor]
    statistics: SimilarityStatistics


class Direction(NamedTuple):
    """Similarities of a direction's anchors to all candidates and to their own positives."""

    name: str
    similarity_BC: Tensor
    own_B: Tensor


@pytest.fixture(params=range(STEPS))
def step(request: pytest.FixtureRequest) -> Step:
    statistics = SimilarityStatistics("running")
    with np.load(GOLDEN) as figures:
        for number in range(request.param + 1):
            prefix = f"step{number}/"
            golden = {
                name.removeprefix(prefix): torch.from_numpy(figures[name])
                for name in figures.files
                if name.startswith(prefix)
            }
            statistics.update(golden["image"] @ golden["text"].T)
    return Step(golden, statistics)


def directions(golden: dict[str, Tensor], image_BD: Tensor, text_BD: Tensor) -> Iterator[Direction]:
    for name, anchor, other, memory in (
        ("i2t", image_BD, "text_m", "queue_text"),
        ("t2i", text_BD, "image_m", "queue_image"),
    ):
        candidate_CD = torch.cat([golden[other], golden[memory]])
        yield Direction(name, anchor @ candidate_CD.T, (anchor * golden[other]).sum(dim=1))


def weights(step: Step, direction: Direction) -> Tensor:
    return fne_weights(
        direction.similarity_BC,
        direction.own_B,
        step.golden["mask"],
        step.statistics,
        cutdown=0.2,
        alpha=0.5,
        prior=10_000,
        suspect=0.001,
        min_matches=8,
    )


def test_the_statistics_agree(step: Step) -> None:
    for name, population in (("pos", step.statistics.positive), ("neg", step.statistics.negative)):
        assert int(population.count) == int(step.golden[f"{name}_count"])
        assert_close(population.mean.float(), step.golden[f"{name}_mean"])
        assert_close(population.variance.float(), step.golden[f"{name}_var"])


def test_the_weights_agree_wherever_something_violates_the_margin(step: Step) -> None:
    compared = 0
    for direction in directions(step.golden, step.golden["image"], step.golden["text"]):
        offered_BC = direction.similarity_BC.masked_fill(step.golden["mask"], -torch.inf)
        violated_B = offered_BC.amax(dim=1) > direction.own_B - MARGIN
        compared += int(violated_B.sum())
        assert_close(weights(step, direction)[violated_B], step.golden[f"weights_{direction.name}"][violated_B])
    assert compared > 0


def test_the_loss_and_its_gradient_agree(step: Step) -> None:
    image_BD, text_BD = step.golden["image"].requires_grad_(), step.golden["text"].requires_grad_()
    loss = torch.stack(
        [
            triplet_loss(d.similarity_BC, d.own_B, weights(step, d).argmax(dim=1), MARGIN).sum()
            for d in directions(step.golden, image_BD, text_BD)
        ]
    ).sum()
    assert_close(loss, step.golden["loss_sum"])
    for name, gradient in zip(
        ("image", "text"), torch.autograd.grad(loss / len(image_BD), [image_BD, text_BD]), strict=True
    ):
        assert_close(gradient, step.golden[f"grad_{name}"])


def test_the_hardest_negatives_loss_agrees(step: Step) -> None:
    loss = torch.zeros(())
    for d in directions(step.golden, step.golden["image"], step.golden["text"]):
        hardest_B = hardest_weights(d.similarity_BC, step.golden["mask"]).argmax(dim=1)
        loss = loss + triplet_loss(d.similarity_BC, d.own_B, hardest_B, MARGIN).sum()
    assert_close(loss, step.golden["hardest_loss_sum"])


def test_the_warmup_loss_agrees(step: Step) -> None:
    similarity_BB = step.golden["image"] @ step.golden["text"].T
    own_B, diagonal_BB = similarity_BB.diagonal(), torch.eye(len(similarity_BB), dtype=torch.bool)
    loss = torch.zeros(())
    for side_BB in (similarity_BB, similarity_BB.T):
        loss = loss + triplet_loss(side_BB, own_B, hardest_weights(side_BB, diagonal_BB).argmax(dim=1), MARGIN).sum()
    assert_close(loss, step.golden["warmup_loss_sum"])
