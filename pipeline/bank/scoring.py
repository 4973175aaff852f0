"""NPC's memory bank: each training pair's loss with the base model, which pairs are clean, and each pair's entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import Inputs, epoch_plan, training_batches
from pipeline.models.towers import MatchingModel
from pipeline.objectives.clean_pairs import Mixture, clean_probability, nearest_clean
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import PairsParams
from pipeline.progress import progress
from pipeline.runtime.processes import average, gather, seed_own_draws, weight_of_rows, worked_span

if TYPE_CHECKING:
    import pandas

ENCODE_BATCH = 256


def learn_before_scoring(model: MatchingModel, inputs: Inputs, pairs: PairsParams) -> None:
    """`pairs.bank_epochs` of InfoNCE within the batch: noisy pairs are learnt last, so their losses are then higher."""
    optimiser = torch.optim.Adam(model.parameters(), lr=pairs.bank_lr)
    model.train()
    for epoch in range(pairs.bank_epochs):
        plan = epoch_plan(len(inputs.caption_image), pairs.batch_size, pairs.seed, epoch)
        spans = [worked_span(len(batch)) for batch in plan]
        batches = training_batches(inputs, plan, spans, seeds=(pairs.seed, epoch), start=0, workers=0)
        label = f"bank epoch {epoch + 1}/{pairs.bank_epochs}"
        shown = progress(batches, label=label, total=len(plan), rows=len(plan[0]))
        for step, batch in enumerate(shown, epoch * len(plan)):
            seed_own_draws(pairs.seed, step)
            there = batch.to(model.device)
            image_bD, text_bD = model(there.images, there.texts)
            size = there.global_size
            loss_B = pair_losses(
                gather(image_bD, size, differentiable=True),
                gather(text_bD, size, differentiable=True),
                gather(there.image_id, size),
                model.temperature,
            )
            own = slice(there.first, there.first + len(image_bD))
            optimiser.zero_grad()
            (loss_B[own].sum() * weight_of_rows(size) / size).backward()
            average([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
            optimiser.step()
            model.bound_temperature()
    model.eval()


def score_pairs(
    image_ND: Tensor, text_MD: Tensor, caption_image_M: Tensor, temperature: float | Tensor, batch_size: int, seed: int
) -> Tensor:
    """Each pair's loss within a seeded random batch; every pair occurs once, and batch sizes differ by at most 1.

    Args:
        image_ND: unit vectors of the training images.
        text_MD: unit vectors of the training captions.
        caption_image_M: each caption's image; pairs of the same image are not negatives of each other.
        temperature: similarities are divided by it.
        batch_size: the largest batch.
        seed: of the order.

    Returns:
        loss_M: (M,).
    """
    pairs = len(text_MD)
    order_M = torch.from_numpy(np.random.default_rng(seed).permutation(pairs)).to(text_MD.device)
    loss_M = torch.empty(pairs, device=text_MD.device, dtype=text_MD.dtype)
    # in a small last batch, negatives would be easy and noisy pairs would look clean
    for rows_B in order_M.tensor_split(-(-pairs // batch_size)):
        image_B = caption_image_M[rows_B]
        loss_M[rows_B] = pair_losses(image_ND[image_B], text_MD[rows_B], image_B, temperature)
    return loss_M


@torch.inference_mode()
def make_bank(model: MatchingModel, inputs: Inputs, pairs: PairsParams) -> tuple[pandas.DataFrame, Mixture]:
    """The bank's table (columns as in `pipeline.bank.table`) and the mixture that was fitted for it.

    Raises:
        InputError: when no pair is clean.
    """
    import pandas

    device = model.device
    image_ND, text_MD = encode_split(model, inputs, ENCODE_BATCH, "bank")
    image_M = inputs.caption_image.to(device)
    loss_M = score_pairs(image_ND, text_MD, image_M, model.temperature, pairs.batch_size, pairs.seed)
    mixture = clean_probability(loss_M, pairs.seed)
    clean_M = mixture.clean_probability_M > pairs.clean_threshold
    if not clean_M.any():
        raise InputError(
            f"pairs.clean_threshold = {pairs.clean_threshold}: no pair is clean (the highest probability is "
            f"{float(mixture.clean_probability_M.max()):.3f}); lower it, or give the base model more to go by: "
            "pairs.bank_epochs, base.epochs or another model.image"
        )
    # sorted by loss: the entry of an image is its clean caption with the lowest loss
    clean_C = clean_M.nonzero().squeeze(1).to(device)
    clean_C = clean_C[loss_M[clean_C].argsort(stable=True)]
    clean_image_C = image_M[clean_C]
    options = {"exclude_self": pairs.exclude_self}
    numbers_N = torch.arange(len(image_ND), device=device)
    image_entry_N = clean_C[nearest_clean(image_ND, numbers_N, image_ND[clean_image_C], clean_image_C, **options)]
    text_entry_M = clean_C[nearest_clean(text_MD, image_M, text_MD[clean_C], clean_image_C, **options)]
    table: dict[str, Any] = {
        "caption": torch.arange(len(text_MD)),
        "image": inputs.caption_image,
        "loss": loss_M.cpu(),
        "clean_probability": mixture.clean_probability_M,
        "clean": clean_M,
        "image_entry": image_entry_N[image_M].cpu(),
        "text_entry": text_entry_M.cpu(),
    }
    return pandas.DataFrame({name: column.numpy() for name, column in table.items()}), mixture
