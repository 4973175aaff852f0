"""InfoNCE with a weighted denominator."""

from __future__ import annotations

import torch
from torch import Tensor


def infonce_loss(
    similarity_BC: Tensor, own_similarity_B: Tensor, weights_BC: Tensor, temperature: float | Tensor
) -> Tensor:
    """`-log(e^(s⁺/τ) / (e^(s⁺/τ) + Σ w e^(s/τ)))` in one direction (van den Oord et al. 2018; weights ours).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺; the own pair is always in the denominator, once.
        weights_BC: (B, C) factors of the other terms; 0 excludes a term, so the own pair's column should be 0.
        temperature: τ; 0-dimensional if it is learned.

    Returns:
        loss_B: (B,), so that a pair's weight can multiply it.
    """
    own_B1 = own_similarity_B[:, None] / temperature
    logits_BC = similarity_BC / temperature + weights_BC.log()
    return torch.logsumexp(torch.cat([own_B1, logits_BC], dim=1), dim=1) - own_B1.squeeze(1)
