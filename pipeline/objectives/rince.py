"""RINCE: a loss between InfoNCE and one that a wrong own pair cannot raise far."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.objectives.contrastive import weighted_logits


def rince_loss(
    similarity_BC: Tensor,
    own_similarity_B: Tensor,
    weights_BC: Tensor,
    temperature: float | Tensor,
    exponent: float,
    density: float,
) -> Tensor:
    """`-e^(q s⁺/τ)/q + (λ (e^(s⁺/τ) + Σ w e^(s/τ)))^q / q` in one direction (Chuang et al. 2022).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺.
        weights_BC: (B, C) w.
        temperature: τ; gradients grow with e^(q/τ), so a small one needs a small q.
        exponent: q in (0, 1]; near 0 it is InfoNCE.
        density: λ.

    Returns:
        loss_B: (B,); may be negative.
    """
    own_B1 = own_similarity_B[:, None] / temperature
    logits_BC = weighted_logits(similarity_BC, weights_BC, temperature)
    normaliser_B = torch.logsumexp(torch.cat([own_B1, logits_BC], dim=1), dim=1)
    pulled_B = (exponent * own_B1.squeeze(1)).exp()
    return ((exponent * (math.log(density) + normaliser_B)).exp() - pulled_B) / exponent
