"""The learning rate of every schedule, step by step."""

from __future__ import annotations

from math import cos, pi
from pathlib import Path

import pytest

from pipeline.params import load_params
from pipeline.training.schedule import scheduled_rate

TRAIN = load_params(Path(__file__).parents[2] / "params.yaml").train.model_copy(update={"lr": 2.0, "epochs": 4})
BATCHES, SAMPLES = 10, 100  # an epoch
STEPS = {"schedule": "steps", "milestones": [2, 3]}
COSINE = {"schedule": "cosine", "schedule_counts": "steps"}


def half_cosine(share: float) -> float:
    return 1 + cos(pi * share)  # of a highest rate of 2


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        # by (epoch, step of the epoch): the first step, the end of the warm-up, the middle, the last step
        (STEPS, {(0, 0): 2.0, (1, 9): 2.0, (2, 0): 0.2, (2, 9): 0.2, (3, 0): 0.02, (3, 9): 0.02}),
        (STEPS | {"milestones": [3, 2]}, {(1, 9): 2.0, (2, 0): 0.2, (3, 9): 0.02}),
        (STEPS | {"milestones": []}, {(0, 0): 2.0, (2, 0): 2.0, (3, 9): 2.0}),
        (
            STEPS | {"warmup_steps": 8},
            {(0, 0): 0.25, (0, 6): 1.75, (0, 7): 2.0, (0, 8): 2.0, (2, 0): 0.2, (3, 9): 0.02},
        ),
        (STEPS | {"warmup_steps": 16, "milestones": [1]}, {(0, 9): 1.25, (1, 0): 0.1375, (1, 5): 0.2, (3, 9): 0.2}),
        (COSINE, {(0, 0): 2.0, (2, 0): 1.0, (3, 9): half_cosine(39 / 40)}),
        (
            COSINE | {"warmup_steps": 8},
            {(0, 0): 0.25, (0, 6): 1.75, (0, 7): 2.0, (0, 8): 2.0, (2, 4): 1.0, (3, 9): half_cosine(31 / 32)},
        ),
        (  # NPC's code: an epoch counts as many positions as it has samples, and a step moves on by one
            COSINE | {"warmup_steps": 8, "schedule_counts": "samples"},
            {(0, 0): 0.25, (0, 7): 2.0, (0, 8): 2.0, (2, 4): half_cosine(196 / 392), (3, 9): half_cosine(301 / 392)},
        ),
    ],
)
def test_the_rate_at_each_step(settings: dict[str, object], rates: dict[tuple[int, int], float]) -> None:
    train = TRAIN.model_copy(update={"warmup_steps": 0, **settings})
    found = {place: scheduled_rate(train, *place, BATCHES, SAMPLES) for place in rates}
    assert found == pytest.approx(rates)
