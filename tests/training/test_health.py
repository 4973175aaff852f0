"""Numbers go wrong: a training continues correctly, or stops with the reason and its last good checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.features.inputs import Batch
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.training.health import collapse_warning, means_of, without_effect
from pipeline.training.loop import Training
from pipeline.training.objective import MatchingObjective, Pairs, collapse
from tests.training.making import STRATEGIES, frozen_pairs, linear_heads, params_with, tiny_training

GUIDED_BY_EVIDENCE: dict[str, Any] = {
    "sampler__strategy": "gist",
    "sampler__posterior": "evidence",
    "sampler__prior": "estimated",
    "sampler__drop": 0.01,
    "model__train": "heads",
    "evidence__kinds": ["words", "regression"],
    "loss__name": "infonce",
}


def open_run(folder: Path, **changes: Any) -> Training:
    settings = {"train__epochs": 2, "train__lr": 0.01, "train__batch_size": 3, "memory__size": 7}
    params = params_with(**(settings | changes))
    torch.manual_seed(params.seed)
    return tiny_training(folder, params, linear_heads(), frozen_pairs(folder))


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def after_epoch(training: Training, epoch: int, poison: Any) -> None:
    """Have `poison` called before the first step of an epoch."""
    step = training.step

    def poisoned(batch: Batch, **options: Any) -> dict[str, Tensor]:
        if training.at.epoch == epoch and training.at.batch == 0:
            poison()
        return step(batch, **options)

    training.step = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        (
            {"train__epochs": 2, "train__warmup_epochs": 2},
            ["train.warmup_epochs 2 of train.epochs 2: no epoch is left"],
        ),
        ({"train__epochs": 0}, []),
        (GUIDED_BY_EVIDENCE, ["sampler.drop 0.01 leaves out every pair that the guide of sampler.strategy gist knows"]),
        (GUIDED_BY_EVIDENCE | {"sampler__drop": None}, []),
        (GUIDED_BY_EVIDENCE | {"sampler__drop": 0.5}, []),
        (GUIDED_BY_EVIDENCE | {"sampler__prior": 1000.0}, []),
        (GUIDED_BY_EVIDENCE | {"sampler__guide": "regression"}, []),
    ],
)
def test_a_setting_without_effect_is_told(changes: dict[str, Any], said: list[str]) -> None:
    found = without_effect(params_with(**changes))
    assert len(found) == len(said)
    assert all(line.startswith(f"warning: {text}") for line, text in zip(found, said, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_stops_with_the_last_good_checkpoint(value: float, tmp_path: Path) -> None:
    whole = open_run(tmp_path / "whole")
    whole.run()
    training = open_run(tmp_path / "poisoned")

    def poison() -> None:
        with torch.no_grad():
            next(training.model.image_head.parameters()).fill_(value)

    after_epoch(training, 1, poison)
    with pytest.raises(InputError, match=r"loss is nan at epoch 1, step \d+: training cannot continue.*checkpoint"):
        training.run()
    again = open_run(tmp_path / "poisoned")
    assert again.resume()
    assert (again.at.epoch, again.at.batch) == (1, 0)
    again.run()
    for name, tensor in weights(whole).items():
        assert torch.equal(again.model.state_dict()[name], tensor), "once the cause is gone, it is the same run"


def test_a_gradient_that_is_no_number_stops_before_it_is_in_a_checkpoint(tmp_path: Path) -> None:
    """The loss of the step is still finite; the weights after it are not."""
    training = open_run(tmp_path / "poisoned", train__batch_size=12)
    parameter = next(training.model.image_head.parameters())
    after_epoch(training, 1, lambda: parameter.register_hook(lambda gradient: gradient * math.nan))
    with pytest.raises(InputError, match=r"the loss was finite, but a weight is not at epoch 1, step 2"):
        training.run()
    state = training.checkpoint.load()
    assert state is not None
    assert json.loads(state["progress"])["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    best = training.checkpoint.load("best")
    assert best is not None
    assert all(tensor.isfinite().all() for tensor in best["model"].values())


def test_one_image_among_others_says_nothing_of_collapse_and_hides_none() -> None:
    def logged(loss: float, **metrics: float) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in {"train/loss": loss, **metrics}.items()}

    steps = [logged(1.0, share=0.5, collapse=math.nan), logged(3.0, share=0.25, collapse=0.75)]
    assert means_of(steps) == {"train/loss": 2.0, "share": 0.375, "collapse": 0.75}
    assert means_of(steps[:1]) == {"train/loss": 1.0, "share": 0.5}, "what no step knows is not logged"
    assert math.isnan(means_of([logged(math.nan), logged(1.0)])["train/loss"]), "a loss is never hidden"


def test_collapse_is_the_mean_similarity_of_different_images() -> None:
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(7, 5), dim=1) for _ in range(2))
    ids = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    expected = max(
        sum(float(part[i] @ part[j]) for i, j in pairs) / len(pairs)
        for part in (image, text)
        for pairs in [[(i, j) for i in range(7) for j in range(7) if ids[i] != ids[j]]]
    )
    same = ids[:, None] == ids[None, :]
    assert float(collapse(image, text, same)) == pytest.approx(expected, abs=1e-6)
    assert float(collapse(image[:1].expand(7, -1), text, same)) == pytest.approx(1)
    assert math.isnan(collapse(image, text, torch.ones(7, 7, dtype=torch.bool)))


def test_a_collapse_is_told_once_and_early(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    training = open_run(tmp_path / "run", train__batch_size=6)
    with torch.no_grad():  # a bias beside which no image matters
        for name, parameter in training.model.image_head.named_parameters():
            parameter.fill_(1000.0) if "bias" in name else parameter.mul_(1e-6)
    training.run()
    said = capfd.readouterr().err
    assert said.count("warning: the towers collapse") == 1
    assert "in epoch 1 (similarity/collapse" in said
    assert training.at.history[0]["similarity/collapse"] > 0.99


@pytest.mark.parametrize(("value", "warned"), [(0.989, False), (0.991, True), (math.nan, False)])
def test_what_counts_as_a_collapse(value: float, warned: bool) -> None:
    assert (collapse_warning(value, 0) is not None) == warned


def unit(*rows: list[float]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", ["triplet", "infonce"])
@pytest.mark.parametrize("case", ["nothing matches", "all cut down", "one image", "one pair", "all the same"])
def test_a_batch_that_teaches_little_gives_a_finite_loss(case: str, loss: str, strategy: str) -> None:
    params = params_with(sampler__strategy=strategy, sampler__cutdown=0.0, sampler__min_matches=0, loss__name=loss)
    image, text = unit([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]), unit([0.0, 1.0], [1.0, 0.0], [-1.0, 0.5])
    ids = torch.arange(3)
    if case == "all cut down":
        text = image.clone()
    elif case == "one image":
        ids = torch.zeros(3, dtype=torch.long)
    elif case == "one pair":
        image, text, ids = image[:1], text[:1], ids[:1]
    elif case == "all the same":
        image = text = image[:1].expand(3, -1)
    image, text = image.clone().requires_grad_(), text.clone().requires_grad_()
    pairs = Pairs(image, text, ids, torch.arange(len(ids)))
    draws = torch.full((2, len(ids)), 0.5)
    for warmup, warming_up in (("triplet", True), ("infonce", True), ("triplet", False)):
        objective = MatchingObjective(params.sampler, params.loss, warmup, SimilarityStatistics(), None)
        loss_b, logged = objective(pairs, pairs, None, 0, draws, 0.05, warming_up=warming_up)
        loss_b.sum().backward()
        assert loss_b.isfinite().all()
        assert image.grad is not None
        assert image.grad.isfinite().all()
        assert not logged["sampler/cut_down_share"].isnan()
        if case in ("one image", "one pair"):
            assert loss_b.tolist() == pytest.approx([0] * len(ids)), "nothing to be pushed from, nothing learnt"
            assert logged["sampler/cut_down_share"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"memory__size": 5, "train__batch_size": 6},
        {"train__batch_size": 1},
        {"train__batch_size": 11},  # the last batch of the epoch is one pair
        {"sampler__cutdown": 0.0, "sampler__min_matches": 0},
    ],
    ids=["a memory smaller than the batch", "a batch of one", "a last batch of one", "no cut-down, no patience"],
)
@pytest.mark.parametrize("strategy", ["fne", "all"])
def test_a_training_with_unusual_sizes_ends_with_finite_weights(
    changes: dict[str, Any], strategy: str, tmp_path: Path
) -> None:
    training = open_run(tmp_path / "run", sampler__strategy=strategy, **changes)
    training.run()
    assert training.at.epoch == 2
    assert all(tensor.isfinite().all() for tensor in weights(training).values())
    assert all(math.isfinite(row["train/loss"]) for row in training.at.history)
