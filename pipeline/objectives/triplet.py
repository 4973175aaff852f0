"""The hinge loss, on one negative per anchor or on all."""

from __future__ import annotations

from torch import Tensor


def triplet_loss(similarity_BC: Tensor, own_similarity_B: Tensor, negative_B: Tensor, margin: float | Tensor) -> Tensor:
    """`[margin + s⁻ - s⁺]₊` for the negative drawn for each anchor, in one direction (Faghri et al. 2018).

    Args:
        similarity_BC: (B, C) cosine similarities of anchors to candidates.
        own_similarity_B: (B,) s⁺.
        negative_B: (B,) the column drawn for each anchor.
        margin: in units of cosine similarity; or (B,) of each drawn candidate.

    Returns:
        loss_B: (B,), so that a pair's weight can multiply it.
    """
    negative_similarity_B = similarity_BC.gather(1, negative_B[:, None]).squeeze(1)
    return (margin + negative_similarity_B - own_similarity_B).relu()


def mean_violation_loss(
    similarity_BC: Tensor, own_similarity_B: Tensor, weights_BC: Tensor, margin: float | Tensor
) -> Tensor:
    """The weighted mean of an anchor's hinges over the candidates that violate the margin: `loss.name: hinge`, and
    `triplet` with strategy `all`.

    Args:
        similarity_BC: (B, C).
        own_similarity_B: (B,).
        weights_BC: (B, C), 0 excludes a candidate.
        margin: in units of cosine similarity; or (B, C) of each candidate.

    Returns:
        loss_B: (B,), 0 for an anchor without a violation.
    """
    hinge_BC = (margin + similarity_BC - own_similarity_B[:, None]).relu()
    return _weighted_mean(hinge_BC, weights_BC * (hinge_BC.detach() > 0))


def mean_hinge_loss(
    similarity_BC: Tensor, own_similarity_B: Tensor, weights_BC: Tensor, margin: float | Tensor
) -> Tensor:
    """The weighted mean of an anchor's hinges over all candidates, also those that keep the margin:
    `loss.name: hinge_mean` (DECL, Qin et al. 2022). Arguments and result are those of `mean_violation_loss`.
    """
    return _weighted_mean((margin + similarity_BC - own_similarity_B[:, None]).relu(), weights_BC)


def _weighted_mean(value_BC: Tensor, weights_BC: Tensor) -> Tensor:
    """Of each row (B,), 0 where every weight is 0."""
    total_B = weights_BC.sum(dim=1)
    return (weights_BC * value_BC).sum(dim=1) / total_B.where(total_B > 0, 1)
