"""What the loop keeps and in which order it goes on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.features.inputs import Batch
from pipeline.models.towers import MatchingModel
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from pipeline.runtime.processes import uniform
from pipeline.training.accumulation import Window
from pipeline.training.loop import Training
from tests.training.making import (
    linear_heads,
    linear_towers,
    own_captions,
    params_with,
    prepared_pairs,
    tiny_training,
    watched,
)

IMAGES = 6
WRONG, RIGHT = torch.eye(IMAGES).roll(1, 0), torch.eye(IMAGES)  # of the captions: each like the next image, or its own


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Training, list[Batch]]:
    """Five epochs of which the second and the third are best, and alike; the training, and the batches it has seen."""
    heads = (nn.Linear(IMAGES, IMAGES, bias=False) for _ in range(2))
    model = MatchingModel(nn.Identity(), nn.Identity(), *heads, width=IMAGES)
    model.get_parameter("image_head.weight").data.copy_(RIGHT)
    params = params_with(memory__size=0, train__epochs=5, train__warmup_epochs=0, train__batch_size=3, train__lr=1e-9)
    training = tiny_training(tmp_path, params, model, own_captions(tmp_path / "inputs", IMAGES))
    steered = [WRONG, RIGHT, 2 * RIGHT, WRONG, WRONG]
    text_weight = model.get_parameter("text_head.weight")
    seen = watched(training, lambda: text_weight.data.copy_(steered[training.at.epoch]))  # type: ignore[arg-type]
    training.run()
    return training, seen


@pytest.mark.parametrize("accumulate", [1, 4, 16])
def test_a_window_of_many_batches_delays_no_checkpoint_for_long(accumulate: int, tmp_path: Path) -> None:
    settings = {"memory__size": 0, "train__warmup_epochs": 0, "train__batch_size": 2}
    params = params_with(train__epochs=1, train__accumulate=accumulate, **settings)
    inputs = own_captions(tmp_path / "inputs", 75)
    training = tiny_training(tmp_path, params, linear_heads(75, 8), inputs)
    saved: list[int] = []
    save = training.checkpoint.save

    def watch(state: dict[str, Any], name: str = "state") -> None:
        if name == "state":
            saved.append(training.at.batch)
        save(state, name)

    training.checkpoint.save = watch  # type: ignore[method-assign]
    training.checkpoint.due = lambda: True  # type: ignore[method-assign]
    training.run()
    *within, end = saved
    assert within == sorted({min(38, math.ceil(record / accumulate) * accumulate) for record in range(3, 40, 3)})
    assert end == 0, "of the next epoch"


def test_the_first_of_the_best_validations_is_kept_with_its_own_statistics(kept: tuple[Training, list[Batch]]) -> None:
    training, _ = kept
    validations = {row["epoch"]: row for row in training.at.history if "val/rsum" in row}
    rsums = [row["val/rsum"] for row in validations.values()]
    assert rsums[1] == rsums[2] == training.at.best_rsum == 600 > max(rsums[0], rsums[3], rsums[4])
    best = training.at.best
    assert (best["epoch"], best["step"]) == (1, 4)
    for side, own in best["statistics"].items():
        found = [validations[1][f"similarity/{side}_{name}"] for name in ("mean", "std", "count")]
        assert found == [own["mean"], pytest.approx(own["variance"] ** 0.5), own["count"]]
    assert best["statistics"] != training.statistics.as_numbers()
    threshold = best["statistics"]["positive"]["mean"] - training.params.sampler.cutdown
    assert validations[1]["sampler/threshold"] == pytest.approx(threshold)


def test_the_best_weights_are_those_that_are_restored(kept: tuple[Training, list[Batch]]) -> None:
    training, _ = kept
    assert torch.equal(training.model.get_parameter("text_head.weight"), WRONG)
    training.restore_best()
    assert torch.equal(training.model.get_parameter("text_head.weight"), RIGHT)
    assert torch.equal(training.model.get_parameter("image_head.weight").detach().round(), RIGHT)


def test_statistics_begin_anew_with_every_epoch(kept: tuple[Training, list[Batch]]) -> None:
    training, _ = kept
    counts = {row["epoch"]: row["similarity/positive_count"] for row in training.at.history}
    assert counts[2] == IMAGES, "of the third epoch every pair matches, its own and no other epoch's"
    assert counts[4] < IMAGES


def test_every_epoch_sees_each_pair_once_and_in_an_order_of_its_own(kept: tuple[Training, list[Batch]]) -> None:
    _, seen = kept
    rows = torch.cat([batch.caption_id for batch in seen]).view(5, IMAGES)
    assert all(sorted(order) == list(range(IMAGES)) for order in rows.tolist())
    assert len({tuple(order) for order in rows.tolist()}) == 5


def test_the_memory_holds_what_momentum_towers_give_without_dropout(tmp_path: Path) -> None:
    inputs = own_captions(tmp_path / "inputs", IMAGES)
    params = params_with(memory__size=IMAGES, train__epochs=2, train__batch_size=IMAGES, model__momentum=0.5)
    model = linear_heads(IMAGES, 4, dropout=0.5)
    start, training = copy.deepcopy(model), tiny_training(tmp_path, params, model, inputs)
    weights: list[dict[str, Tensor]] = []
    watched(training, lambda: weights.append(copy.deepcopy(dict(model.named_parameters()))))
    training.run()
    averaged = {  # the first step finds it equal to the model, the second moves it half of the way
        name: (value + weights[0][name]) / 2 for name, value in start.named_parameters()
    }
    assert training.memory is not None and training.momentum_model is not None
    for name, value in training.momentum_model.named_parameters():
        torch.testing.assert_close(value, averaged[name].detach())
    for side, remembered in (("image", training.memory.image), ("text", training.memory.text)):
        rows = torch.eye(IMAGES)[training.memory.image_id]
        weight, bias = (averaged[f"{side}_head.1.{part}"] for part in ("weight", "bias"))
        torch.testing.assert_close(remembered, normalize(rows @ weight.T + bias, dim=1).detach())


def steps_of(folder: Path, ema: float | None) -> tuple[Training, list[dict[str, Tensor]]]:
    """A training of four steps, and the weights at its start, after each step, and of its momentum towers."""
    torch.manual_seed(0)
    model = linear_heads(IMAGES, 4)
    changes = {"memory__size": IMAGES, "train__epochs": 2, "train__batch_size": 3, "train__lr": 0.1}
    inputs = own_captions(folder / "inputs", IMAGES)
    training = tiny_training(folder, params_with(train__ema=ema, **changes), model, inputs)
    assert training.momentum_model is not None
    seen = [copy.deepcopy(model.state_dict())]
    watched(training, lambda: seen.append(copy.deepcopy(model.state_dict())))
    training.run()
    return training, [*seen, training.momentum_model.state_dict()]


def test_the_average_of_the_weights_over_steps_is_validated_and_kept(tmp_path: Path) -> None:
    training, weights = steps_of(tmp_path / "averaged", 0.6)
    assert len(weights) == 6
    averaged = [weights[0]]
    for step in weights[1:5]:
        averaged.append({name: 0.6 * value + 0.4 * step[name] for name, value in averaged[-1].items()})
    torch.testing.assert_close(dict(training.model.state_dict()), averaged[4])
    with torch.no_grad():
        image, text = training.model(torch.eye(IMAGES), torch.eye(IMAGES))
    found = recalls(*retrieval_ranks(image, text, torch.arange(IMAGES)))
    assert training.at.history[-1]["val/rsum"] == found["rsum"]
    training.restore_best()
    torch.testing.assert_close(dict(training.model.state_dict()), averaged[training.at.best["step"]])


def test_averaging_changes_neither_the_training_nor_the_momentum_towers(tmp_path: Path) -> None:
    (_, plain), (_, averaged) = (steps_of(tmp_path / str(ema), ema) for ema in (None, 0.6))
    for found, expected in zip(averaged, plain, strict=True):
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_every_step_draws_by_the_seed_and_its_own_number(tmp_path: Path) -> None:
    params = params_with(memory__size=0, train__epochs=2, train__warmup_epochs=0, train__batch_size=3)
    inputs = own_captions(tmp_path / "inputs", IMAGES)
    training = tiny_training(tmp_path, params, linear_heads(IMAGES, 4), inputs)
    drawn: list[Tensor] = []

    def draw(weights_bC: Tensor, uniform_b: Tensor) -> Tensor:
        drawn.append(uniform_b)
        return weights_bC.argmax(dim=1)

    training.objective.draw = draw
    training.run()
    assert torch.equal(torch.stack(drawn), torch.cat([uniform(params.seed, step, 3) for step in range(4)]))


def test_every_epoch_augments_by_numbers_of_its_own(tmp_path: Path) -> None:
    params = params_with(memory__size=0, train__epochs=2, train__batch_size=8)
    inputs = prepared_pairs(tmp_path / "inputs", augment=True)
    training = tiny_training(tmp_path, params, linear_towers(), inputs)
    seen = watched(training)
    training.run()
    for number, batch in enumerate(seen):
        epoch, place = divmod(number, 2)
        seeds = np.random.SeedSequence([params.seed, epoch, place]).generate_state(len(batch.image_id))
        assert torch.equal(batch.images, inputs.images(batch.image_id.tolist(), seeds.tolist()))
        assert not torch.equal(batch.images, inputs.images(batch.image_id.tolist()))


def test_trust_multiplies_each_pairs_loss(tmp_path: Path) -> None:
    params = params_with(memory__size=0, sampler__strategy="all", loss__name="infonce")
    model, inputs = linear_heads(IMAGES, 4), own_captions(tmp_path / "inputs", IMAGES)
    trust_M = torch.tensor([1.0, 0.5, 0.0, 0.25, 1.0, 0.75])
    training = tiny_training(tmp_path, params, model, inputs, trust_M=trust_M)
    alone, chosen = copy.deepcopy(model), torch.tensor([3, 1, 2])
    batch = Batch(torch.eye(IMAGES)[chosen], torch.eye(IMAGES)[chosen], chosen, chosen, 0, 3)
    image_BD, text_BD = alone(batch.images, batch.texts)
    logits_BB, own = image_BD @ text_BD.T / 0.1, torch.arange(3)
    loss_B = sum(nn.functional.cross_entropy(part, own, reduction="none") / 2 for part in (logits_BB, logits_BB.T))
    (loss_B * trust_M[chosen]).mean().backward()
    logged = training.step(batch, warming_up=False, window=Window(0, 2))
    assert logged["pairs/weight_mean"] == 0.25
    for found, expected in zip(model.parameters(), alone.parameters(), strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(found.grad, expected.grad / 2)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_gradients_of_a_window_are_averaged(size: int, tmp_path: Path) -> None:
    params = params_with(memory__size=0, sampler__strategy="all", loss__name="infonce")
    model, inputs = linear_heads(IMAGES, 4), own_captions(tmp_path / "inputs", IMAGES)
    training = tiny_training(tmp_path, params, model, inputs)
    alone = copy.deepcopy(model)
    everything = torch.arange(IMAGES)
    batch = Batch(torch.eye(IMAGES), torch.eye(IMAGES), everything, everything, 0, IMAGES)
    image_BD, text_BD = alone(batch.images, batch.texts)
    logits_BB = image_BD @ text_BD.T / 0.1
    losses = (nn.functional.cross_entropy(logits, everything) for logits in (logits_BB, logits_BB.T))
    (sum(losses) / 2).backward()  # type: ignore[union-attr]
    for place in range(size - 1):
        before = copy.deepcopy(model.state_dict())
        training.step(batch, warming_up=False, window=Window(place, size))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        for own, expected in zip(model.parameters(), alone.parameters(), strict=True):
            assert own.grad is not None and expected.grad is not None
            torch.testing.assert_close(own.grad, expected.grad * (place + 1) / size)
    training.step(batch, warming_up=False, window=Window(size - 1, size))
    assert not any(torch.equal(own, then) for own, then in zip(model.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize(("asked", "batches"), [(1, [7]), (2, [4, 7]), (3, [3, 5, 7]), (100, [1, 2, 3, 4, 5, 6, 7])])
def test_validations_are_spread_over_the_epoch_and_end_it(asked: int, batches: list[int], tmp_path: Path) -> None:
    params = params_with(memory__size=0, train__epochs=1, train__batch_size=2, train__validations_per_epoch=asked)
    training = tiny_training(tmp_path, params, linear_heads(14, 4), own_captions(tmp_path / "inputs", 14))
    at = training.run()
    assert [row["step"] for row in at.history if "val/rsum" in row] == batches
    assert [row["step"] for row in at.history] == [1, 2, 3, 4, 5, 6, 7], "ten records an epoch, where it is that long"


@pytest.mark.parametrize(
    ("captions", "start", "low", "high"),
    [
        ("of the next image", math.log(100), 4.0, 4.5),  # from the bound, where OpenAI's weights start, and back
        ("of their own", 4.59, math.log(100) - 1e-6, math.log(100) + 1e-6),  # to the bound, and no further
    ],
)
def test_a_learned_temperature_leaves_its_bound_and_does_not_pass_it(
    captions: str, start: float, low: float, high: float, tmp_path: Path
) -> None:
    places = WRONG if captions == "of the next image" else RIGHT
    heads = [nn.Linear(IMAGES, IMAGES, bias=False).requires_grad_(False) for _ in range(2)]
    heads[0].weight.copy_(1 + 0.3 * places)  # vectors that are alike, but not the same
    heads[1].weight.copy_(1 + 0.3 * RIGHT)
    model = MatchingModel(nn.Identity(), nn.Identity(), *heads, width=IMAGES)
    model.logit_scale = nn.Parameter(torch.tensor(start))
    params = params_with(
        memory__size=0,
        loss__name="infonce",
        loss__temperature="learned",
        sampler__strategy="all",
        train__epochs=20,
        train__warmup="infonce",
        train__batch_size=3,
        train__lr=0.01,
        train__milestones=[],
    )
    tiny_training(tmp_path, params, model, own_captions(tmp_path / "inputs", IMAGES)).run()
    assert low < model.logit_scale.item() < high
