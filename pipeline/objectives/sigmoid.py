"""The sigmoid loss: each pair is judged by itself."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

FIRST_BIAS = -10.0  # SigLIP's initial value


def sigmoid_loss(
    similarity_BC: Tensor,
    own_similarity_B: Tensor,
    weights_BC: Tensor,
    temperature: float | Tensor,
    bias: float | Tensor,
    *,
    targets: Tensor | None = None,
    margins: Tensor | None = None,
) -> Tensor:
    """`Σ q softplus(-z) + w (1 - q) softplus(z)`, `z = (s + m)/τ + b`, in one direction (SigLIP, Zhai et al. 2023).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺.
        weights_BC: (B, C) w; 0 for what is no negative, the own pair's column included.
        temperature: τ; 0-dimensional if it is learned.
        bias: b; 0-dimensional if it is learned.
        targets: (B, 1 + C) q in [0, 1], of the own pair and of each candidate; None: 1 and 0.
        margins: (B, C) m; None: 0.

    Returns:
        loss_B: (B,), the sum over an anchor's own pair and candidates.
    """
    own_B = own_similarity_B / temperature + bias
    logits_BC = (similarity_BC if margins is None else similarity_BC + margins) / temperature + bias
    if targets is None:
        return softplus(-own_B) + (weights_BC * softplus(logits_BC)).sum(dim=1)
    own_target_B, target_BC = targets[:, 0], targets[:, 1:]
    own_loss_B = own_target_B * softplus(-own_B) + (1 - own_target_B) * softplus(own_B)
    pulled_BC, pushed_BC = target_BC * softplus(-logits_BC), weights_BC * (1 - target_BC) * softplus(logits_BC)
    return own_loss_B + (pulled_BC + pushed_BC).sum(dim=1)
