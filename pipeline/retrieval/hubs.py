"""Hubs: items that come first for too many queries (Radovanović et al. 2010).

Shapes: Q queries, I items, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ROWS = 512  # of the similarity matrix


def first_items(query_QD: Tensor, item_ID: Tensor) -> Tensor:
    """The most similar item of each query (Q,); of equal ones the first."""
    return torch.cat([(query_BD @ item_ID.T).argmax(dim=1) for query_BD in query_QD.split(CHUNK_ROWS)])


def skewness(count_I: Tensor) -> float:
    """The third standardised moment of how often each item comes first: 0 without hubs, larger with them."""
    centred_I = count_I.double() - count_I.double().mean()
    spread = centred_I.square().mean().sqrt()
    return float((centred_I**3).mean() / spread**3) if spread > 0 else 0.0
