"""Weights and margins from a second opinion: what a frozen guide says of a candidate.

Shapes: B anchors, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def guided_weights(
    guide_BC: Tensor, own_guide_B: Tensor, excluded_BC: Tensor, margin: float, *, relative: bool = False
) -> Tensor:
    """1 on candidates whose guide is at most the own pair's, minus a margin; 0 on those that may match.

    GISTEmbed: margin 0. NV-Retriever's MarginPos: an absolute margin; PercPos: a share of the own pair's guide (ρ = 1 -
    margin).

    Args:
        guide_BC: (B, C) how well each candidate matches, by the guide.
        own_guide_B: (B,) the same of the own pair.
        excluded_BC: (B, C) bool, no negatives.
        margin: in the guide's units; if `relative`, a share of the own pair's.
        relative: see `margin`.
    """
    limit_B = own_guide_B - (own_guide_B.abs() * margin if relative else margin)
    return ((guide_BC <= limit_B[:, None]) & ~excluded_BC).float()


def agreement_margins(agreement_BC: Tensor, usual: float, margin: float) -> Tensor:
    """`margin (1 - r)/(1 - α)` where r ≥ α, else `margin`: smaller where captions agree (LG, Zheng et al. 2023).

    Args:
        agreement_BC: (B, C) r, the cosine of a caption with the nearest caption of the image.
        usual: α, the 70th percentile of random pairs.
        margin: of a candidate that does not agree.
    """
    return margin * ((1 - agreement_BC) / (1 - usual)).clamp(max=1)


def true_negative_weights(true_BC: Tensor, excluded_BC: Tensor) -> Tensor:
    """1 on candidates that do not match in truth: the upper bound of what finding false negatives can give."""
    return (~(true_BC | excluded_BC)).float()


def below_threshold_weights(similarity_BC: Tensor, threshold_B: Tensor, excluded_BC: Tensor) -> Tensor:
    """1 on candidates at or below the anchor's threshold (GloFND, Balmaseda et al. 2025)."""
    return ((similarity_BC <= threshold_B[:, None]) & ~excluded_BC).to(torch.float32)
