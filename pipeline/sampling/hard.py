"""Weights by the similarity: hard negatives count more, or alone.

Shapes: B anchors, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hcl_weights(similarity_BC: Tensor, excluded_BC: Tensor, temperature: float | Tensor, beta: float) -> Tensor:
    """`e^(β s/τ)` over its mean over the anchor's candidates (HCL, Robinson et al. 2021); with gradient, as their code.

    Args:
        similarity_BC: (B, C) cosine similarities.
        excluded_BC: (B, C) bool, no negatives.
        temperature: τ of the loss.
        beta: β; 0 weights all candidates equally.
    """
    logits_BC = (beta / temperature * similarity_BC).masked_fill(excluded_BC, -torch.inf)
    # a softmax times the count is the value over the mean, without an overflow; a row without candidates stays 0
    share_BC = torch.softmax(logits_BC.where((~excluded_BC).any(dim=1, keepdim=True), 0), dim=1)
    return share_BC.masked_fill(excluded_BC, 0) * (~excluded_BC).sum(dim=1, keepdim=True)


def hardness_weights(similarity_BC: Tensor, excluded_BC: Tensor, alpha: float) -> Tensor:
    """`e^(α s)` on every candidate: α is added to its similarity's factor (LLaVE 2025, α 9; EmbeddingGemma, α 5)."""
    return (alpha * similarity_BC).exp().masked_fill(excluded_BC, 0)


def hardest_weights_of(similarity_BC: Tensor, excluded_BC: Tensor, count: int) -> Tensor:
    """1 on each anchor's `count` most similar candidates, and on those that equal the last of them."""
    candidate_BC = similarity_BC.masked_fill(excluded_BC, -torch.inf)
    least_B1 = candidate_BC.topk(min(count, candidate_BC.shape[1]), dim=1).values[:, -1:]
    return ((candidate_BC >= least_B1) & ~excluded_BC).float()


def annealed_count(candidates: int, step: int, annealing: float, fewest: int) -> int:
    """How many of the hardest are taken at a step: from all down to `fewest` (DECL, Qin et al. 2022)."""
    return max(int(candidates - annealing * step), fewest)
