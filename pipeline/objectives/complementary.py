"""Complementary contrastive learning: only negatives are pushed, so a wrong own pair is never pulled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.objectives.contrastive import weighted_logits

EXPONENT = 0.5  # q of "gce", theirs
PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda p: -(1 - p).clamp(min=torch.finfo().eps).log(),
    "tan": torch.tan,
    "abs": lambda p: p,
    "exp": lambda p: (p - 1).exp(),
    "gce": lambda p: (1 - (1 - p).clamp(min=torch.finfo().eps) ** EXPONENT) / EXPONENT,
}


def complementary_loss(
    similarity_BC: Tensor, own_similarity_B: Tensor, weights_BC: Tensor, temperature: float | Tensor, form: str
) -> Tensor:
    """`Σ f(p_j)` over the negatives, with p the softmax over the own pair and them (RCL, Hu et al. 2023).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺.
        weights_BC: (B, C) w; 0 for no negative.
        temperature: τ.
        form: f: log, tan, abs, exp or gce.

    Returns:
        loss_B: (B,).
    """
    logits_BC = weighted_logits(similarity_BC, weights_BC, temperature)
    share_BC = torch.cat([own_similarity_B[:, None] / temperature, logits_BC], dim=1).softmax(dim=1)[:, 1:]
    return (PENALTIES[form](share_BC) * (weights_BC > 0)).sum(dim=1)
