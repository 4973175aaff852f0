"""InfoNCE with a weighted denominator, target distributions and margins."""

from __future__ import annotations

import torch
from torch import Tensor


def infonce_loss(
    similarity_BC: Tensor,
    own_similarity_B: Tensor,
    weights_BC: Tensor,
    temperature: float | Tensor,
    *,
    targets: Tensor | None = None,
    margins: Tensor | None = None,
) -> Tensor:
    """`-Σ q s/τ + log(e^(s⁺/τ) + Σ w e^((s + m)/τ))` in one direction (van den Oord et al. 2018; weights ours).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺; the own pair is always in the denominator, once.
        weights_BC: (B, C) factors of the other terms; 0 excludes a term, so the own pair's column should be 0.
        temperature: τ; 0-dimensional if it is learned.
        targets: (B, 1 + C) q, of the own pair and of each candidate; rows sum to 1. A candidate with a target above 0
            needs a weight above 0, or raising its similarity would lower the loss without end. None: the own pair.
        margins: (B, C) m, added to the candidates' similarities in the denominator; None: 0.

    Returns:
        loss_B: (B,), so that a pair's weight can multiply it.
    """
    own_B1 = own_similarity_B[:, None] / temperature
    logits_BC = weighted_logits(similarity_BC if margins is None else similarity_BC + margins, weights_BC, temperature)
    normaliser_B = torch.logsumexp(torch.cat([own_B1, logits_BC], dim=1), dim=1)
    if targets is None:
        return normaliser_B - own_B1.squeeze(1)
    attracted_B = targets[:, 0] * own_similarity_B + (targets[:, 1:] * similarity_BC).sum(dim=1)
    return normaliser_B - attracted_B / temperature


def weighted_logits(similarity_BC: Tensor, weights_BC: Tensor, temperature: float | Tensor) -> Tensor:
    """`s/τ + log w`, -inf where the weight is 0; with a finite gradient also through weights that have one."""
    log_weights_BC = weights_BC.log()
    if weights_BC.requires_grad:  # the gradient of log 0 is infinite
        log_weights_BC = weights_BC.clamp(min=torch.finfo().tiny).log().masked_fill(weights_BC == 0, -torch.inf)
    return similarity_BC / temperature + log_weights_BC
