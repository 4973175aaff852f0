"""NPC's step: what it gives to each pair, and what its settings change (the step itself: test_steps_by_hand)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.bank.table import Bank
from pipeline.data.splits.truth_file import Noise
from pipeline.features.inputs import Batch, Entries
from pipeline.models.towers import MatchingModel
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import Params
from pipeline.training.impact import NegativeImpact
from pipeline.training.siamese import Siamese
from tests.paper import paper_params

PARAMS = paper_params()
PAIRS, WIDTH, BATCH = 24, 6, 8
GENERATOR = torch.Generator().manual_seed(1)
IMAGES, TEXTS = (torch.randn(PAIRS, WIDTH, dtype=torch.float64, generator=GENERATOR) for _ in range(2))
IMAGE_OF = torch.arange(PAIRS) // 2  # two captions an image
ENTRIES = np.random.default_rng(1).integers(PAIRS, size=(2, PAIRS))
TEMPERATURE = 0.1


def params_for(**pairs: Any) -> Params:
    train = PARAMS.train.model_copy(
        update={"optimiser": "adamw", "lr": 0.02, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.2, "clip": 0.5}
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
    impact = NegativeImpact(model, params, bank, noise, {"bank/clean_share": 0.5})
    impact.weight_M, impact.ratio_M = impact.weight_M.double(), impact.ratio_M.double()
    return impact


def plain_losses(model: MatchingModel, batch: Batch) -> Tensor:
    assert model.logit_scale is not None
    image, text = model(batch.images, batch.texts)
    return pair_losses(image, text, batch.image_id, model.temperature)


def test_dropout_touches_no_ratio() -> None:
    params, model = params_for(), small_model(dropout=0.5)
    impact = opened(model.train(), params)
    batch = batch_of(0)
    assert batch.entries is not None
    # lr 0: the siamese is the model, so that only chance could make a ratio other than 1
    found = impact(plain_losses(model, batch), batch, 0.0)
    assert found.ratio.tolist() == pytest.approx([1.0] * BATCH, abs=1e-12)
    assert model.training


def test_the_siamese_has_the_bound_of_the_learned_temperature() -> None:
    params, model, batch = params_for(), small_model(), batch_of(0)
    assert model.logit_scale is not None and batch.entries is not None
    model.logit_scale.data.fill_(math.log(100))
    loss_B = plain_losses(model, batch) - 1e4 * model.logit_scale  # to be raised
    gradients = torch.autograd.grad(loss_B.mean(), list(model.parameters()), retain_graph=True)
    moved = Siamese(model, params.train, 1.0).step(gradients, 0.02)
    assert moved["logit_scale"] > math.log(100)
    found = opened(model, params)(loss_B, batch, 0.02)
    expected = []
    for half in batch.entries.halves():
        losses = []
        for weights in ({}, moved):
            image_BD, text_BD = functional_call(model, weights, (half.images, half.texts))
            losses.append(pair_losses(image_BD, text_BD, half.image_id, 0.01))
        expected.append(losses[0] / losses[1])
    torch.testing.assert_close(found.ratio, (expected[0] + expected[1]) / 2, rtol=1e-6, atol=0)


def test_the_published_quirks_change_what_is_trained() -> None:
    batch = batch_of(0)
    assert batch.entries is not None
    losses = {}
    for name, value in {"reweigh": "batch", "bank_loss": 0.0, "seed": 1}.items():
        model = small_model()
        impact = opened(model, params_for(**{name: value}))
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
    impact = opened(small_model(), params_for(), noise)
    assert impact.summary() == {}
    impact.weight_M = torch.where(torch.from_numpy(wrong_M), 0.5, 1.0)
    impact.ratio_M = torch.where(torch.from_numpy(wrong_M), 0.6, 1.2)
    told = impact.summary()
    assert (told["pairs/weight_auc"], told["pairs/ratio_auc"]) == (1, 1)
    assert told["bank/clean_share"] == 0.5
    assert [name for name in told if "weight_p" in name] == [f"pairs/weight_p{share}" for share in (10, 50, 90)]
    assert (told["pairs/weight_p10"], told["pairs/weight_p90"]) == (0.5, 1)
    assert told["pairs/trusted_share"] == pytest.approx(2 / 3)
    table = impact.table(IMAGE_OF)
    assert table["caption"].tolist() == list(range(PAIRS)) and table["image"].tolist() == IMAGE_OF.tolist()
    assert table["weight"].tolist() == impact.weight_M.tolist() and table["ratio"].tolist() == impact.ratio_M.tolist()
    assert table["clean_probability"].tolist() == [1] * PAIRS
