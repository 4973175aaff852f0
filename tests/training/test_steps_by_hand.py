"""Whole trainings against the obvious one, written out here in plain torch: every weight after every step.

An epoch that warms up and one that does not, each of three batches, the last of them smaller.
Shapes: B batch, C candidates, N images, M captions, D joint width, Q memory.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.training.making import (
    ENTRIES,
    IMAGE_NW,
    IMAGE_OF_M,
    PIXELS_N3HW,
    TEXT_MW,
    WORDS_ML,
    frozen_pairs,
    linear_heads,
    linear_towers,
    params_with,
    prepared_pairs,
    tiny_training,
    watched,
)

BATCHES, BATCH, QUEUE = 3, 5, 7
Weights = dict[str, Tensor]

COMMON: dict[str, Any] = {
    "seed": 5,
    "model__momentum": 0.7,
    "train__epochs": 2,
    "train__batch_size": BATCH,
    "train__lr": 0.05,
    "train__betas": [0.8, 0.95],
    "train__eps": 0.1,  # so large that a gradient's size shows in Adam's step
    "train__weight_decay": 0.3,
    "train__milestones": [1],
}
CLIP = {"triplet": 3.0, "infonce": 8.0, "npc": 9.0, "npc, adam": 9.0}  # some steps' gradients are longer, some are not
CASES: dict[str, dict[str, Any]] = {
    "triplet": {"memory__size": QUEUE, "loss__name": "triplet", "sampler__strategy": "hardest"},
    "infonce": {
        "memory__size": 0,
        "loss__name": "infonce",
        "loss__temperature": "learned",
        "sampler__strategy": "all",
        "train__warmup": "infonce",
        "train__optimiser": "adamw",
        "train__schedule": "cosine",
        "train__warmup_steps": 2,
        "train__accumulate": 2,
    },
    "npc": {
        "memory__size": QUEUE,
        "loss__name": "infonce",
        "loss__temperature": "learned",
        "sampler__strategy": "all",
        "train__warmup": "infonce",
        "train__optimiser": "adamw",
        "pairs__weighting": "npc",
        "pairs__bank_epochs": 1,
        "pairs__bank_loss": 0.6,
        "pairs__siamese_gradient": 2.0,
    },
}
CASES["npc, adam"] = CASES["npc"] | {"train__optimiser": "adam"}
WINDOWS = {"infonce": (2, 2, 1)}  # batches whose gradients each batch's are averaged with


def encoded(weights: Weights, rows_B: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs: over pixels and words where the model has towers, else over the features."""
    if "image_tower.1.weight" in weights:
        pixels = (PIXELS_N3HW[IMAGE_OF_M[rows_B]].flatten(1) / 255 - 0.5) / 0.5
        image, text = pixels @ weights["image_tower.1.weight"].T, weights["text_tower.table.weight"][WORDS_ML[rows_B]]
        return normalize(image + weights["image_tower.1.bias"], dim=1), normalize(text.mean(dim=1), dim=1)
    sides = (("image", IMAGE_NW[IMAGE_OF_M[rows_B]]), ("text", TEXT_MW[rows_B]))
    image, text = (row @ weights[f"{side}_head.1.weight"].T + weights[f"{side}_head.1.bias"] for side, row in sides)
    return normalize(image, dim=1), normalize(text, dim=1)


def one_way(anchor_BD: Tensor, candidate_CD: Tensor, same_BC: Tensor, scale: Tensor | None) -> Tensor:
    """Each anchor's loss, InfoNCE where similarities have a scale; its own pair is among the first B candidates."""
    similarity_BC = anchor_BD @ candidate_CD.T
    if scale is None:
        hardest_B = similarity_BC.masked_fill(same_BC, -torch.inf).amax(dim=1)
        return (0.2 + hardest_B - similarity_BC.diagonal()).clamp(min=0)
    logits_BC = similarity_BC * scale.exp()
    own_B, other_BC = logits_BC.diagonal(), logits_BC.masked_fill(same_BC, -torch.inf)
    return (torch.cat([own_B[:, None], other_BC], dim=1).logsumexp(dim=1) - own_B) / 2


def both_ways(
    image: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor], same_BC: Tensor, scale: Tensor | None
) -> Tensor:
    return one_way(image[0], text[1], same_BC, scale) + one_way(text[0], image[1], same_BC, scale)


class Adam:
    """Written out, its moments kept by name."""

    def __init__(self, case: str) -> None:
        self.decoupled, self.clip, self.step = CASES[case].get("train__optimiser") == "adamw", CLIP[case], 0
        self.mean: Weights = {}
        self.square: Weights = {}

    def moved(self, weights: Weights, gradients: Weights, rate: float) -> Weights:
        self.step += 1
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        new = {}
        for name, weight in weights.items():
            gradient = gradients[name] * min(1.0, self.clip / (norm + 1e-6))
            decay = 0.3 if weight.ndim > 1 else 0.0
            kept = weight * (1 - rate * decay) if self.decoupled else weight
            if not self.decoupled:
                gradient = gradient + decay * weight
            mean = self.mean[name] = 0.8 * self.mean.get(name, torch.zeros(())) + 0.2 * gradient
            square = self.square[name] = 0.95 * self.square.get(name, torch.zeros(())) + 0.05 * gradient**2
            corrected = (square / (1 - 0.95**self.step)).sqrt() + 0.1
            new[name] = kept - rate * (mean / (1 - 0.8**self.step)) / corrected
        return {name: value.detach() for name, value in new.items()}


def rate_of(case: str, step: int) -> float:
    if case == "infonce":
        return 0.05 * (step + 1) / 2 if step < 2 else 0.05 * (1 + math.cos(math.pi * (step - 2) / 4)) / 2
    return 0.05 if step < BATCHES else 0.005


def by_hand(case: str, start: Weights) -> tuple[list[dict[str, float]], list[Weights], Weights, Tensor]:
    """What each step logs, the weights after each; at the end the momentum weights, and each pair's last weight."""
    weights, averaged = start, start
    optimiser, siamese = Adam(case), Adam(case)
    summed = {name: torch.zeros_like(value) for name, value in weights.items()}
    queue = [torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)]
    logged: list[dict[str, float]] = []
    after: list[Weights] = []
    pair_weight_M = torch.full((12,), torch.nan)
    for step in range(2 * BATCHES):
        epoch, batch = divmod(step, BATCHES)
        order = np.random.default_rng([5, epoch]).permutation(12)
        rows_B = torch.from_numpy(order[BATCH * batch : BATCH * (batch + 1)])
        image_id_B = IMAGE_OF_M[rows_B]
        window = WINDOWS.get(case, (1, 1, 1))[batch]
        if case != "infonce" and batch % window == 0:
            averaged = {name: 0.7 * value + 0.3 * weights[name] for name, value in averaged.items()}
        live = {name: value.clone().requires_grad_() for name, value in weights.items()}
        image_BD, text_BD = encoded(live, rows_B)
        momentum = encoded(averaged, rows_B)
        scale = live.get("logit_scale")
        if epoch == 0 or case == "infonce":
            same_BB = image_id_B[:, None] == image_id_B
            loss_B = both_ways((image_BD, image_BD), (text_BD, text_BD), same_BB, scale)
        else:
            candidates = [torch.cat(pair) for pair in zip(momentum, queue, strict=False)]
            same_BC = image_id_B[:, None] == torch.cat([image_id_B, queue[2]])
            loss_B = both_ways((image_BD, candidates[0]), (text_BD, candidates[1]), same_BC, scale)
        row = {"train/loss": loss_B.mean().item(), "train/lr": rate_of(case, step)}
        loss = loss_B.mean()
        if "pairs__weighting" in CASES[case] and epoch == 1:
            plain = torch.autograd.grad(loss, list(live.values()), retain_graph=True)
            doubled = {name: 2 * gradient for name, gradient in zip(live, plain, strict=True)}
            moved = siamese.moved(weights, doubled, row["train/lr"])
            before, now = ([entry_losses(which, entries, rows_B) for entries in ENTRIES] for which in (live, moved))
            ratio_B = (before[0].detach() / now[0] + before[1].detach() / now[1]) / 2
            weight_B = torch.where(ratio_B < 1, ratio_B.tanh(), 1.0)
            bank_B = before[0] + before[1]
            loss = (weight_B * loss_B).mean() + 0.6 * bank_B.mean()
            row |= {"pairs/weight_mean": weight_B.mean().item(), "pairs/bank_loss": bank_B.mean().item()}
            pair_weight_M[rows_B] = weight_B
        gradients = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
        for name, gradient in zip(live, gradients, strict=True):
            summed[name] = summed[name] + (0 if gradient is None else gradient / window)
        if window == 1 or batch % window == 1:
            weights = optimiser.moved(weights, summed, row["train/lr"])
            summed = {name: torch.zeros_like(value) for name, value in weights.items()}
        queue = [torch.cat([old, new])[-QUEUE:] for old, new in zip(queue, (*momentum, image_id_B), strict=True)]
        logged.append(row)
        after.append(weights)
    return logged, after, averaged, pair_weight_M


def entry_losses(weights: Weights, entries: Any, rows_B: Tensor) -> Tensor:
    """Of the clean pairs named for one side of the batch's pairs, among themselves."""
    entry_B = torch.from_numpy(entries)[rows_B]
    image_BD, text_BD = encoded(weights, entry_B)
    same_BB = IMAGE_OF_M[entry_B][:, None] == IMAGE_OF_M[entry_B]
    return both_ways((image_BD, image_BD), (text_BD, text_BD), same_BB, weights["logit_scale"])


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_the_one_by_hand(case: str, tmp_path: Path) -> None:
    params = params_with(**(COMMON | CASES[case]), train__clip=CLIP[case])
    torch.manual_seed(1)
    model = linear_heads() if case == "triplet" else linear_towers()
    inputs = (frozen_pairs if case == "triplet" else prepared_pairs)(tmp_path / "inputs")
    start = copy.deepcopy(dict(model.named_parameters()))
    logged, weights, averaged, pair_weight_M = by_hand(case, {name: value.detach() for name, value in start.items()})
    training = tiny_training(tmp_path, params, model, inputs)
    found: list[Weights] = []
    watched(training, lambda: found.append(copy.deepcopy(dict(model.named_parameters()))))
    at = training.run()
    assert len(at.history) == len(logged)
    for row, expected in zip(at.history, logged, strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
        assert ("pairs/weight_mean" in row) == ("pairs/weight_mean" in expected)
    torch.testing.assert_close(found, weights, rtol=1e-4, atol=1e-5)
    if training.impact is not None:
        torch.testing.assert_close(training.impact.weight_M, pair_weight_M, rtol=1e-4, atol=1e-5)
    if training.momentum_model is not None:
        torch.testing.assert_close(dict(training.momentum_model.named_parameters()), averaged, rtol=1e-4, atol=1e-5)
    assert not all(torch.equal(value, start[name]) for name, value in weights[-1].items())
