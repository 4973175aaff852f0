"""Negative impact: how much training on a pair harms similar clean pairs (Zhang, Li and Ye 2024, NPC).

Shapes: B pairs, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives.contrastive import infonce_loss


def pair_losses(image_BD: Tensor, text_BD: Tensor, image_id_B: Tensor, temperature: float | Tensor) -> Tensor:
    """Each pair's contrastive loss within its batch, the mean of both directions: `(CE_i2t + CE_t2i) / 2`.

    Args:
        image_BD: unit vectors.
        text_BD: unit vectors of the same pairs.
        image_id_B: pairs of the same image are not negatives of each other.
        temperature: similarities are divided by it.

    Returns:
        loss_B: (B,).
    """
    others_BB = (image_id_B[:, None] != image_id_B[None, :]).to(image_BD.dtype)
    similarity_BB = image_BD @ text_BD.T
    own_B = similarity_BB.diagonal()
    there_B = infonce_loss(similarity_BB, own_B, others_BB, temperature)
    back_B = infonce_loss(similarity_BB.T, own_B, others_BB, temperature)
    return (there_B + back_B) / 2


def impact_ratio(image_before_B: Tensor, image_after_B: Tensor, text_before_B: Tensor, text_after_B: Tensor) -> Tensor:
    """`r = (l_I / l'_I + l_T / l'_T) / 2`: below 1 if a step on the batch increased the loss of a pair's clean entries.

    Args:
        image_before_B: loss of each pair's image entry with the model.
        image_after_B: same, with the siamese model, which is one step further.
        text_before_B: loss of each pair's text entry with the model.
        text_after_B: same, with the siamese model.

    Returns:
        r_B: (B,); 1 for an entry whose loss is 0 before and after.
    """

    def ratio(before_B: Tensor, after_B: Tensor) -> Tensor:
        tiny = torch.finfo(before_B.dtype).tiny
        return torch.where(before_B == after_B, 1.0, before_B / after_B.clamp(min=tiny))

    return (ratio(image_before_B, image_after_B) + ratio(text_before_B, text_after_B)) / 2


def impact_weights(ratio_B: Tensor) -> Tensor:
    """`w = tanh(r)` where r < 1, else 1: in (0, 1], with a step from 0.76 to 1 at r = 1."""
    return torch.where(ratio_B < 1, ratio_B.tanh(), torch.ones_like(ratio_B))
