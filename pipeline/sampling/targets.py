"""Target distributions over an anchor's own pair and its candidates: what else should match.

Shapes: B anchors, C candidates; a target has 1 + C columns (`_BT`), the own pair's first, and its rows sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def same_image_targets(positive_BC: Tensor) -> Tensor:
    """The same on the own pair and on each candidate of the anchor's image: `1 / (1 + n)`."""
    named_BT = torch.cat([torch.ones_like(positive_BC[:, :1]), positive_BC], dim=1).float()
    return named_BT / named_BT.sum(dim=1, keepdim=True)


def distilled_targets(momentum_BT: Tensor, positive_BC: Tensor, temperature: float | Tensor, share: float) -> Tensor:
    """`(1 - α) same image + α softmax(s_m/τ)`: momentum distillation (ALBEF, Li et al. 2021).

    Args:
        momentum_BT: s_m, the momentum towers' similarities, -inf for what is no candidate.
        positive_BC: bool, candidates of the anchor's own image.
        temperature: τ of the loss.
        share: α.
    """
    return (1 - share) * same_image_targets(positive_BC) + share * torch.softmax(momentum_BT / temperature, dim=1)


def pseudo_positive_targets(
    similarity_BC: Tensor, own_similarity_B: Tensor, eligible_BC: Tensor, weight: float
) -> Tensor:
    """`1 + α` on the own pair, α on each candidate that is at least as similar, normalised (PCME++, Chun 2024).

    The published loss adds α times a second binary cross-entropy with these candidates as positives to the first. The
    sum is `1 + α` times one with the targets 1 and `α / (1 + α)`, which is what the sigmoid loss makes of these.
    """
    pseudo_BC = (similarity_BC >= own_similarity_B[:, None]) & eligible_BC
    own_B1 = torch.full_like(own_similarity_B[:, None], 1 + weight)
    named_BT = torch.cat([own_B1, weight * pseudo_BC], dim=1)
    return named_BT / named_BT.sum(dim=1, keepdim=True)


def soft_targets(evidence_BT: Tensor, temperature: float) -> Tensor:
    """`softmax(e/τ)` of a frozen similarity: X-CLR's (Sobal et al. 2025) of captions; -inf for what is no candidate."""
    return torch.softmax(evidence_BT / temperature, dim=1)


def transported(similarity_BB: Tensor, temperature: float, rounds: int = 50) -> Tensor:
    """The plan whose rows and columns sum to 1 that is nearest to `e^(s/τ)` (Sinkhorn), over a batch.

    OTTER (Wu et al. 2022) and NeighborRetr (Lin et al. 2025, 50 rounds, τ 1) mix it with the own pairs; the last step
    here sums rows, so that they are distributions.
    """
    plan_BB = similarity_BB / temperature
    for _ in range(rounds):
        plan_BB = plan_BB - plan_BB.logsumexp(dim=0, keepdim=True)
        plan_BB = plan_BB - plan_BB.logsumexp(dim=1, keepdim=True)
    return plan_BB.exp()


def mixed_with_own(plan_BT: Tensor, share: float) -> Tensor:
    """`β plan + (1 - β) own pair`, the plan restricted to candidates and normalised."""
    mixed_BT = share * plan_BT / plan_BT.sum(dim=1, keepdim=True)
    mixed_BT[:, 0] += 1 - share
    return mixed_BT
