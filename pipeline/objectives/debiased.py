"""InfoNCE whose denominator is corrected for a share of false negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives.contrastive import weighted_logits


def debiased_loss(
    similarity_BC: Tensor, own_similarity_B: Tensor, weights_BC: Tensor, temperature: float | Tensor, prior: float
) -> Tensor:
    """InfoNCE whose negatives sum to `max((Σ w e^(s/τ) - N τ⁺ e^(s⁺/τ)) / (1 - τ⁺), N e^(-1/τ))`.

    DCL (Chuang et al. 2020); with HCL's weights it is HCL (Robinson et al. 2021).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺.
        weights_BC: (B, C) w; their sum is N, the number of negatives where they are 1 or 0.
        temperature: τ.
        prior: τ⁺, the share of false negatives.

    Returns:
        loss_B: (B,).
    """
    own_B = own_similarity_B / temperature
    logits_BC = weighted_logits(similarity_BC, weights_BC, temperature)
    # numbers below are divided by its exponential; logsumexp has no gradient for an anchor without a negative
    largest_B = torch.maximum(own_B, logits_BC.amax(dim=1)).detach()
    sum_B = (logits_BC - largest_B[:, None]).exp().sum(dim=1)
    count_B = weights_BC.sum(dim=1)
    left_B = (sum_B - count_B * prior * (own_B - largest_B).exp()) / (1 - prior)
    left_B = torch.maximum(left_B, count_B * (-1 / temperature - largest_B).exp())
    return ((own_B - largest_B).exp() + left_B).log() + largest_B - own_B
