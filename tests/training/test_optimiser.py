"""Which optimiser, and which parameters decay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.models.heads import Head
from pipeline.models.towers import MatchingModel
from pipeline.params import load_params
from pipeline.training.optimiser import make_optimiser, rate_of, rate_scales, set_rate
from tests.training.making import small_towers

TRAIN = load_params(Path(__file__).parents[2] / "params.yaml").train.model_copy(update={"lr": 0.1})


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_matrices_decay_and_gains_biases_and_the_temperature_do_not(weight_decay: float) -> None:
    model = MatchingModel(nn.Identity(), nn.Identity(), Head(3, 2), Head(3, 2), width=2)
    model.logit_scale = nn.Parameter(torch.tensor(2.0))
    settings = TRAIN.model_copy(update={"optimiser": "adamw", "weight_decay": weight_decay})
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimiser(model, settings).step()
    matrices = {f"{side}_head.{layer}.weight" for side in ("image", "text") for layer in (1, 3)}
    for name, value in model.named_parameters():
        kept = 1 - 0.1 * weight_decay if name in matrices else 1.0
        torch.testing.assert_close(value.detach(), kept * before[name])


@pytest.mark.parametrize(("name", "first_step"), [("adam", -0.1), ("adamw", -0.3)])
def test_decay_is_part_of_the_gradient_in_adam_and_apart_from_it_in_adamw(name: str, first_step: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(4.0)
    model.weight.grad = torch.ones(1, 1)
    make_optimiser(model, TRAIN.model_copy(update={"optimiser": name, "weight_decay": 0.5, "eps": 1e-12})).step()
    assert model.weight.item() == pytest.approx(4 + first_step)


def test_betas_and_eps_are_those_of_the_parameters() -> None:
    model = nn.Linear(1, 1, bias=False)
    optimiser = make_optimiser(model, TRAIN.model_copy(update={"betas": [0.5, 0.75], "eps": 1.0}))
    start, mean, square = model.weight.item(), 0.0, 0.0
    expected = start
    for step, gradient in enumerate((1.0, 3.0), start=1):
        model.weight.grad = torch.full((1, 1), gradient)
        optimiser.step()
        mean, square = 0.5 * mean + 0.5 * gradient, 0.75 * square + 0.25 * gradient**2
        expected -= 0.1 * (mean / (1 - 0.5**step)) / ((square / (1 - 0.75**step)) ** 0.5 + 1)
    assert model.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("family", ["clip", "vit_bert"])
def test_the_rate_falls_from_a_towers_layer_to_the_one_below(family: str) -> None:
    model = small_towers(family)
    optimiser = make_optimiser(model, TRAIN.model_copy(update={"layer_decay": 0.5, "weight_decay": 0.1}))
    set_rate(optimiser, 0.8)
    assert rate_of(optimiser) == pytest.approx(0.8)
    rates = {id(one): group["lr"] for group in optimiser.param_groups for one in group["params"]}
    named = dict(model.named_parameters())
    assert set(rates) == {id(one) for one in named.values()}
    for name, parameter in named.items():
        below, layer = "embeddings" in name or "pre_layrnorm" in name, ".layers." in name or ".layer." in name
        assert rates[id(parameter)] == pytest.approx(0.2 if below else 0.4 if layer else 0.8), name
    assert {name: scale for name, scale in rate_scales(model, 1.0).items() if scale != 1} == {}


def test_what_is_frozen_is_not_optimised() -> None:
    model = small_towers("clip")
    model.text_tower.requires_grad_(False)
    chosen = {id(one) for group in make_optimiser(model, TRAIN).param_groups for one in group["params"]}
    assert chosen == {id(one) for one in model.image_tower.parameters()}
