"""A threshold for each anchor of a data set, learned over batches: above it are the most similar α of the candidates.

GloFND (Balmaseda et al., ICML 2025): a quantile of all candidates, which no batch shows whole.

Shapes: B anchors, C candidates, N anchors of the data set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RATE, FIRST_DECAY, SECOND_DECAY, EPSILON = 0.05, 0.9, 0.98, 1e-8  # theirs


class Thresholds(nn.Module):
    """λ of each anchor, from 1, moved by Adam's rule on the share of candidates above it; all of it is state.

    Args:
        count: N.
    """

    value_N: Tensor
    mean_N: Tensor
    square_N: Tensor

    def __init__(self, count: int) -> None:
        """Nothing is above a threshold yet."""
        super().__init__()
        self.register_buffer("value_N", torch.ones(count))
        self.register_buffer("mean_N", torch.zeros(count))
        self.register_buffer("square_N", torch.zeros(count))

    @torch.no_grad()
    def update(self, ids_B: Tensor, above_B: Tensor, share: float, epoch: int) -> None:
        """Move the thresholds of a batch's anchors towards `share` candidates above each.

        The gradient is `g = α - above`; Adam's moments are corrected by the number of the *epoch*, as in the published
        code, so the first moves are large. An anchor that is several times in the batch moves once, by its mean.

        Args:
            ids_B: the anchors, of all processes.
            above_B: the share of each anchor's candidates above its threshold.
            share: α.
            epoch: from 0.
        """
        gradient_B = share - _mean_by_anchor(above_B, ids_B)
        mean_B = FIRST_DECAY * self.mean_N[ids_B] + (1 - FIRST_DECAY) * gradient_B
        square_B = SECOND_DECAY * self.square_N[ids_B] + (1 - SECOND_DECAY) * gradient_B.square()
        step_B = mean_B / (1 - FIRST_DECAY ** (epoch + 1))
        step_B = step_B / ((square_B / (1 - SECOND_DECAY ** (epoch + 1))).sqrt() + EPSILON)
        self.value_N[ids_B] = (self.value_N[ids_B] - RATE * step_B).clamp(-1, 1)
        self.mean_N[ids_B], self.square_N[ids_B] = mean_B, square_B

    @torch.no_grad()
    def begin(self, ids_B: Tensor, quantile_B: Tensor) -> None:
        """Set the thresholds of a batch's anchors to its quantiles: the published option `init_quantile`."""
        self.value_N[ids_B] = _mean_by_anchor(quantile_B, ids_B)


def share_above(similarity_BC: Tensor, excluded_BC: Tensor, threshold_B: Tensor) -> Tensor:
    """The share (B,) of each anchor's candidates that are above its threshold."""
    allowed_BC = ~excluded_BC
    above_BC = (similarity_BC > threshold_B[:, None]) & allowed_BC
    return above_BC.sum(dim=1) / allowed_BC.sum(dim=1).clamp(min=1)


def quantile_of_candidates(similarity_BC: Tensor, excluded_BC: Tensor, share: float) -> Tensor:
    """The similarity (B,) that at most `share` of each anchor's candidates exceed; 1 for an anchor without any."""
    ordered_BC = similarity_BC.masked_fill(excluded_BC, -torch.inf).sort(dim=1, descending=True).values
    above_B = ((~excluded_BC).sum(dim=1) * share).long()  # so many stay above
    quantile_B = ordered_BC.gather(1, above_B.clamp(max=ordered_BC.shape[1] - 1)[:, None]).squeeze(1)
    return quantile_B.where(quantile_B.isfinite(), 1.0)


def _mean_by_anchor(value_B: Tensor, ids_B: Tensor) -> Tensor:
    """The mean over the places of the same anchor, at each of them: whichever is written, it is the same."""
    same_BB = (ids_B[:, None] == ids_B[None, :]).to(value_B.dtype)
    return same_BB @ value_B / same_BB.sum(dim=1)
