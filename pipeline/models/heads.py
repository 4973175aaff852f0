"""What `model.train: heads` trains: small networks over frozen features.

Shapes: B batch, W a tower's own width, D the joint width.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import normalize


class FeatureStatistics(NamedTuple):
    """Mean and standard deviation of each feature, (W,) each."""

    mean_W: Tensor
    std_W: Tensor


class Standardise(nn.Module):
    """Features minus their mean, over their standard deviation; both are buffers, so they are saved with the head."""

    mean_W: Tensor
    std_W: Tensor

    def __init__(self, statistics: FeatureStatistics) -> None:
        """Keep `statistics` in single precision."""
        super().__init__()
        self.register_buffer("mean_W", statistics.mean_W.float().clone())
        self.register_buffer("std_W", statistics.std_W.float().clone())

    def forward(self, feature_BW: Tensor) -> Tensor:
        """Standardised features (B, W)."""
        return (feature_BW - self.mean_W) / self.std_W


class Head(nn.Sequential):
    """Two layers over frozen features.

    Args:
        width_in: W.
        width: D.
        statistics: inputs are standardised by them; None: they are not.
        dropout: share of the (standardised) inputs that are set to 0 in training.
    """

    def __init__(
        self, width_in: int, width: int, statistics: FeatureStatistics | None = None, dropout: float = 0.0
    ) -> None:
        """Map (B, W) to (B, D)."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if statistics is not None:
            layers["standardise"] = Standardise(statistics)
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        # the numbers are the names in saved weights, with and without the layers before
        layers["0"] = nn.LayerNorm(width_in)
        layers["1"] = nn.Linear(width_in, 2 * width)
        layers["2"] = nn.GELU()
        layers["3"] = nn.Linear(2 * width, width)
        super().__init__(layers)

    def silence(self) -> None:
        """Make every output 0."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class ResidualHead(nn.Module):
    """A `Head` added to features that already match; it starts as the identity."""

    def __init__(self, width: int, statistics: FeatureStatistics | None, dropout: float) -> None:
        """Map (B, `width`) to (B, `width`); `statistics` and `dropout` are those of the added `Head`."""
        super().__init__()
        self.change = Head(width, width, statistics, dropout)
        self.change.silence()

    def forward(self, feature_BD: Tensor) -> Tensor:
        """Features of unit length plus their change, (B, D)."""
        return normalize(feature_BD, dim=1) + self.change(feature_BD)
