"""NPC's step against the obvious one with two models, which stands here."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.bank.table import Bank
from pipeline.data.splits.truth_file import Noise
from pipeline.features.inputs import Batch, Entries
from pipeline.models.towers import MatchingModel
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import Params, load_params
from pipeline.training.impact import NegativeImpact
from pipeline.training.optimiser import make_optimiser

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
PAIRS, WIDTH, BATCH, STEPS = 24, 6, 8, 5
GENERATOR = torch.Generator().manual_seed(1)
IMAGES, TEXTS = (torch.randn(PAIRS, WIDTH, dtype=torch.float64, generator=GENERATOR) for _ in range(2))
IMAGE_OF = torch.arange(PAIRS) // 2  # two captions an image
ENTRIES = np.random.default_rng(1).integers(PAIRS, size=(2, PAIRS))
TEMPERATURE = 0.1


def params_for(optimiser: str, **pairs: Any) -> Params:
    train = PARAMS.train.model_copy(
        update={"optimiser": optimiser, "lr": 0.02, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.2, "clip": 0.5}
    )
    loss = PARAMS.loss.model_copy(update={"temperature": "learned"})
    weighed = PARAMS.pairs.model_copy(update={"weighting": "npc", **pairs})
    return PARAMS.model_copy(update={"train": train, "loss": loss, "pairs": weighed})


def small_model(dropout: float = 0.0) -> MatchingModel:
    torch.manual_seed(2)
    heads = (nn.Sequential(nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH)) for _ in range(2))
    model = MatchingModel(nn.Identity(), nn.Identity(), *heads, width=WIDTH)
    model.logit_scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())
    return model.double()


def batch_of(step: int) -> Batch:
    rows = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(step))[:BATCH]
    entries = torch.from_numpy(np.concatenate([ENTRIES[0][rows], ENTRIES[1][rows]]))
    return Batch(
        IMAGES[IMAGE_OF[rows]],
        TEXTS[rows],
        IMAGE_OF[rows],
        rows,
        0,
        BATCH,
        Entries(IMAGES[IMAGE_OF[entries]], TEXTS[entries], IMAGE_OF[entries]),
    )


def opened(model: MatchingModel, params: Params, noise: Noise | None = None) -> NegativeImpact:
    bank = Bank(ENTRIES[0], ENTRIES[1], np.ones(PAIRS))
    impact = NegativeImpact(model, params, bank, noise, nullcontext, {"bank/clean_share": 0.5})
    impact.weight_M, impact.ratio_M = impact.weight_M.double(), impact.ratio_M.double()
    return impact


def plain_losses(model: MatchingModel, batch: Batch) -> Tensor:
    assert model.logit_scale is not None
    image, text = model(batch.images, batch.texts)
    return pair_losses(image, text, batch.image_id, model.temperature)


def one_step(impact: NegativeImpact, optimiser: torch.optim.Optimizer, batch: Batch, clip: float) -> Tensor:
    assert batch.entries is not None
    found = impact(plain_losses(impact.model, batch), batch, optimiser.param_groups[0]["lr"])
    optimiser.zero_grad()
    found.loss.backward()
    nn.utils.clip_grad_norm_(impact.model.parameters(), clip)
    optimiser.step()
    return torch.stack([found.ratio, found.weight])


def two_models(model: MatchingModel, params: Params) -> list[Tensor]:
    """The obvious version: a siamese copy with an optimiser of its own, a forward pass each."""
    siamese = copy.deepcopy(model)
    optimiser, siamese_optimiser = make_optimiser(model, params.train), make_optimiser(siamese, params.train)
    seen = []
    for step in range(STEPS):
        batch = batch_of(step)
        entries = batch.entries
        assert entries is not None
        halves = [
            Batch(entries.images[half], entries.texts[half], entries.image_id[half], entries.image_id[half], 0, BATCH)
            for half in (slice(0, BATCH), slice(BATCH, 2 * BATCH))
        ]
        siamese.load_state_dict(model.state_dict())
        before = [plain_losses(model, half) for half in halves]
        siamese_optimiser.zero_grad()
        plain_losses(siamese, batch).mean().backward()
        nn.utils.clip_grad_norm_(siamese.parameters(), params.train.clip)
        siamese_optimiser.step()
        with torch.no_grad():
            after = [plain_losses(siamese, half) for half in halves]
        ratio = (before[0].detach() / after[0] + before[1].detach() / after[1]) / 2
        weight = torch.tensor([value.tanh() if value < 1 else 1.0 for value in ratio], dtype=torch.float64)
        loss = (weight * plain_losses(model, batch)).mean() + (before[0] + before[1]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), params.train.clip)
        optimiser.step()
        seen.append(torch.stack([ratio, weight]))
    return seen


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_ratios_weights_and_trained_parameters_are_those_of_two_models(optimiser: str) -> None:
    params = params_for(optimiser)
    obvious, model = small_model(), small_model()
    expected = two_models(obvious, params)
    impact, own = opened(model, params), make_optimiser(model, params.train)
    found = [one_step(impact, own, batch_of(step), params.train.clip) for step in range(STEPS)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-8, atol=1e-8)
    assert bool((torch.stack(expected)[:, 0] < 1).any() and (torch.stack(expected)[:, 0] > 1).any())
    for ours, theirs in zip(model.parameters(), obvious.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_the_siamese_moments_go_on_after_a_resume() -> None:
    params = params_for("adamw")
    whole, first = small_model(), small_model()
    impact, own = opened(whole, params), make_optimiser(whole, params.train)
    expected = [one_step(impact, own, batch_of(step), 0.5) for step in range(4)]
    impact, own = opened(first, params), make_optimiser(first, params.train)
    for step in range(2):
        one_step(impact, own, batch_of(step), 0.5)
    saved = copy.deepcopy((first.state_dict(), own.state_dict(), impact.state_dict()))
    second = small_model()
    impact, own = opened(second, params), make_optimiser(second, params.train)
    second.load_state_dict(saved[0])
    own.load_state_dict(saved[1])
    impact.load_state_dict(saved[2])
    found = [one_step(impact, own, batch_of(step), 0.5) for step in (2, 3)]
    assert torch.equal(torch.stack(found), torch.stack(expected[2:]))
    assert {int(count) for count in impact.siamese.steps} == {4}


def test_dropout_touches_no_ratio() -> None:
    params, model = params_for("adamw"), small_model(dropout=0.5)
    impact = opened(model.train(), params)
    batch = batch_of(0)
    assert batch.entries is not None
    # lr 0: the siamese is the model, so that only chance could make a ratio other than 1
    found = impact(plain_losses(model, batch), batch, 0.0)
    assert found.ratio.tolist() == pytest.approx([1.0] * BATCH, abs=1e-12)
    assert model.training


def test_the_published_quirks_change_what_is_trained() -> None:
    batch = batch_of(0)
    assert batch.entries is not None
    losses = {}
    for name, value in {"reweigh": "batch", "bank_loss": 0.0, "seed": 1}.items():
        model = small_model()
        impact = opened(model, params_for("adamw", **{name: value}))
        loss_B = plain_losses(model, batch)
        found = impact(loss_B, batch, 0.02)
        losses[name] = found.loss.item()
        weight, bank = found.weight, found.bank_loss.mean().item()
        if name == "reweigh":
            assert losses[name] == pytest.approx((weight.mean() * loss_B.mean()).item() + bank)
        elif name == "bank_loss":
            assert losses[name] == pytest.approx((weight * loss_B).mean().item())
        else:
            assert losses[name] == pytest.approx((weight * loss_B).mean().item() + bank)
    assert len({round(loss, 9) for loss in losses.values()}) == 3


def test_the_summary_says_how_well_weights_tell_the_wrong_pairs() -> None:
    wrong_M = np.arange(PAIRS) % 3 == 0
    noise = Noise(np.arange(PAIRS), np.zeros(PAIRS, dtype=np.int64), wrong_M, 1 / 3)
    impact = opened(small_model(), params_for("adamw"), noise)
    assert impact.summary() == {}
    impact.weight_M = torch.where(torch.from_numpy(wrong_M), 0.5, 1.0)
    impact.ratio_M = torch.where(torch.from_numpy(wrong_M), 0.6, 1.2)
    told = impact.summary()
    assert (told["pairs/weight_auc"], told["pairs/ratio_auc"]) == (1, 1)
    assert told["bank/clean_share"] == 0.5
    assert told["pairs/trusted_share"] == pytest.approx(2 / 3)
    assert impact.table(IMAGE_OF)["weight"].tolist() == impact.weight_M.tolist()
