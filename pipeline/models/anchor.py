"""A closed-form alignment as a frozen part of the model, under heads that learn the rest (`model.anchor`).

Shapes: B batch, W a tower's own width, A the width of the alignment, D that of the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.models.heads import FeatureStatistics, Head, Standardise
from pipeline.models.towers import MatchingModel, unit


class Projection(nn.Module):
    """One side of an alignment: features, first of unit length where `unit_first`, standardised and projected.

    All tensors are buffers, in single precision: saved and moved with the model, and never trained.
    """

    projection_WA: Tensor

    def __init__(self, statistics: FeatureStatistics, projection_WA: Tensor, *, unit_first: bool) -> None:
        super().__init__()
        self.unit_first = unit_first
        self.standardise = Standardise(statistics)
        self.register_buffer("projection_WA", projection_WA.float().clone())

    def forward(self, feature_BW: Tensor) -> Tensor:
        """Unit vectors (B, A)."""
        feature_BW = normalize(feature_BW, dim=1) if self.unit_first else feature_BW
        return unit(self.standardise(feature_BW) @ self.projection_WA)


class Anchored(nn.Module):
    """A head beside a fixed projection of the same features: `[unit(head) ; √w · projection] / √(1 + w)`.

    The similarity of an image and a caption is then `(s_head + w · s_anchor) / (1 + w)`, and the heads learn what the
    anchor lacks.

    Args:
        head: features to (B, D).
        anchor: features to unit vectors (B, A).
        weight: w.
    """

    def __init__(self, head: nn.Module, anchor: Projection, weight: float) -> None:
        super().__init__()
        self.head, self.anchor, self.weight = head, anchor, weight

    def forward(self, feature_BW: Tensor) -> Tensor:
        """Vectors (B, D + A), of unit length unless a part is 0."""
        parts = unit(self.head(feature_BW)), math.sqrt(self.weight) * self.anchor(feature_BW)
        return torch.cat(parts, dim=1) / math.sqrt(1 + self.weight)


def leave_out_untrained_heads(model: MatchingModel) -> None:
    """Make an anchored model's vectors those of the anchor alone (`train.epochs: 0`).

    The output of a head becomes 0, and the model scales the rest to unit length. A head that starts as the identity
    stays: it matches already.
    """
    for anchored in model.heads.values():
        if isinstance(anchored, Anchored) and isinstance(anchored.head, Head):
            anchored.head.silence()


def projections(alignment: Mapping[str, Tensor]) -> tuple[Projection, Projection]:
    """The images' and the captions' side of an `Alignment.state_dict()` (`pipeline.evidence.alignment`)."""
    image = FeatureStatistics(alignment["image_mean_W"], alignment["image_scale_W"])
    text = FeatureStatistics(alignment["text_mean_V"], torch.ones_like(alignment["text_mean_V"]))  # only centred
    return (
        Projection(image, alignment["image_projection_WD"], unit_first=False),
        Projection(text, alignment["text_projection_VD"], unit_first=True),
    )
