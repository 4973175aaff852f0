"""NPC's step over the obvious one, which trains a second copy of the model and runs every pass for itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import Row, at_most, ratio
from pipeline.bank.table import Bank
from pipeline.features.inputs import Batch, Entries
from pipeline.models.clip import image_tower, small_clip, text_tower
from pipeline.models.towers import MatchingModel, Tokens
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import Params, load_params
from pipeline.training.impact import NegativeImpact
from pipeline.training.optimiser import make_optimiser

BATCH, PAIRS, SIZE, WORDS, VOCABULARY = 32, 512, 64, 16, 1000


class TwoModels:
    """Written from the method's description: the siamese is a model with an optimiser of its own."""

    def __init__(self, model: MatchingModel, params: Params) -> None:
        """Begin with equal weights."""
        self.model, self.siamese, self.clip = model, copy.deepcopy(model), params.train.clip
        self.optimiser = make_optimiser(model, params.train)
        self.siamese_optimiser = make_optimiser(self.siamese, params.train)

    def step(self, batch: Batch) -> None:
        """Both models' steps, the bank's loss trained on."""
        halves = _halves(batch)
        self.siamese.load_state_dict(self.model.state_dict())
        before = [_losses(self.model, half) for half in halves]
        self.siamese_optimiser.zero_grad()
        _losses(self.siamese, batch).mean().backward()
        nn.utils.clip_grad_norm_(self.siamese.parameters(), self.clip)
        self.siamese_optimiser.step()
        with torch.no_grad():
            after = [_losses(self.siamese, half) for half in halves]
        ratio_B = (before[0].detach() / after[0] + before[1].detach() / after[1]) / 2
        weight_B = torch.where(ratio_B < 1, ratio_B.tanh(), 1.0)
        loss = (weight_B * _losses(self.model, batch)).mean() + (before[0] + before[1]).mean()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimiser.step()


class Ours:
    """The pipeline's own step over the same kind of model."""

    def __init__(self, model: MatchingModel, params: Params) -> None:
        """Begin as a training does."""
        self.model, self.clip = model, params.train.clip
        self.optimiser = make_optimiser(model, params.train)
        bank = Bank(np.arange(PAIRS), np.arange(PAIRS), np.ones(PAIRS))
        self.impact = NegativeImpact(model, params, bank, None, {})

    def step(self, batch: Batch) -> None:
        """One step."""
        assert batch.entries is not None
        impact = self.impact(_losses(self.model, batch), batch, 2e-7)
        self.optimiser.zero_grad()
        impact.loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimiser.step()


def rows() -> Iterator[Row]:
    """A small CLIP, a batch of which is long enough for its passes to count, not their overhead."""
    params = load_params()
    train = params.train.model_copy(update={"optimiser": "adamw", "lr": 2e-7, "weight_decay": 0.2})
    loss = params.loss.model_copy(update={"temperature": "learned"})
    params = params.model_copy(update={"train": train, "loss": loss})
    torch.manual_seed(1)
    model, batch = _model(), _batch()
    ours, obvious = Ours(copy.deepcopy(model), params), TwoModels(model, params)
    value, remark = ratio(lambda: ours.step(batch), lambda: obvious.step(batch), 15)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    yield at_most("NPC step", "over the obvious two-model version", value, 0.93, f"{remark}; {size:.0f} M parameters")


def _model() -> MatchingModel:
    towers = small_clip(
        size=SIZE, patch=8, width=256, layers=6, heads=4, vocabulary_size=VOCABULARY, positions=WORDS, special=(0, 1, 2)
    )
    model = MatchingModel(
        image_tower(towers[0]), text_tower(towers[1], "masked_mean"), nn.Identity(), nn.Identity(), width=256
    ).train()
    model.logit_scale = nn.Parameter(torch.tensor(2.66))
    return model


def _batch() -> Batch:
    def inputs(count: int) -> tuple[Tensor, Tokens]:
        ids = torch.randint(3, VOCABULARY, (count, WORDS))
        ids[:, 0], ids[:, -1] = 1, 2
        return torch.randn(count, 3, SIZE, SIZE), Tokens(ids, torch.ones_like(ids))

    images, texts = inputs(BATCH)
    entry_images, entry_texts = inputs(2 * BATCH)
    place_B = torch.arange(BATCH)
    entries = Entries(entry_images, entry_texts, torch.arange(2 * BATCH))
    return Batch(images, texts, place_B, place_B, 0, BATCH, entries)


def _halves(batch: Batch) -> list[Batch]:
    entries = batch.entries
    assert entries is not None and isinstance(entries.texts, Tokens)
    return [
        Batch(
            entries.images[half],
            Tokens(*(part[half] for part in entries.texts)),
            entries.image_id[half],
            entries.image_id[half],
            0,
            BATCH,
        )
        for half in (slice(0, BATCH), slice(BATCH, 2 * BATCH))
    ]


def _losses(model: MatchingModel, batch: Batch) -> Tensor:
    image_BD, text_BD = model(batch.images, batch.texts)
    return pair_losses(image_BD, text_BD, batch.image_id, model.temperature)
