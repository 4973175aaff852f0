"""Ranks after corrections for hubs: items that are similar to every query.

NNN and QB-Norm compare the items with a *bank* of queries; where that is the training split, each test query is still
answered by itself (inductive). Dual softmax compares them with the test queries together (transductive): its ranks
are not those of a search, and cannot be compared with others'.

Shapes: N images, M captions, Q queries, I items, R queries of the bank, B rows at a time, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.retrieval.recall import fold_parts, mean_report, retrieval_report

BLOCK = 1 << 24  # similarities in memory at a time
NNN_NEIGHBOURS, NNN_ALPHA = 128, 0.75  # of the authors
BETA = 20.0  # QB-Norm's; also used for the dual softmax


def nnn_bias(item_ID: Tensor, bank_RD: Tensor, *, k: int = NNN_NEIGHBOURS) -> Tensor:
    """What NNN subtracts from each item's similarities (I,): α times the mean of its k largest ones with the bank.

    Chowdhury et al. 2024, Nearest Neighbor Normalization.
    """
    k = min(k, len(bank_RD))
    nearest = [(item_BD @ bank_RD.T).topk(k).values.mean(1) for item_BD in _blocks(item_ID, bank_RD)]
    return NNN_ALPHA * torch.cat(nearest)


def log_mass(item_ID: Tensor, bank_RD: Tensor) -> Tensor:
    """`log Σ_b e^(β s(b, item))` of each item (I,), over the queries of the bank."""
    return torch.cat([(BETA * (item_BD @ bank_RD.T)).logsumexp(1) for item_BD in _blocks(item_ID, bank_RD)])


def active_items(item_ID: Tensor, bank_RD: Tensor) -> Tensor:
    """Which items (I,) are the most similar one of some query of the bank."""
    active_I = torch.zeros(len(item_ID), dtype=torch.bool, device=item_ID.device)
    for bank_BD in _blocks(bank_RD, item_ID):
        active_I[(bank_BD @ item_ID.T).argmax(1)] = True
    return active_I


def corrected_ranks(
    query_QD: Tensor, item_ID: Tensor, query_image_Q: Tensor, item_image_I: Tensor, bank_RD: Tensor
) -> dict[str, Tensor]:
    """Rank (Q,), from 0, of each query's best right item by each correction; ties count against the model.

    - `nnn`: `s - nnn_bias`.
    - `qb_norm` (Bogolin et al. 2022): `e^(β s) / Σ_b e^(β s(b, item))` for a query whose most similar item is active,
      else s.
    - `dual_softmax` (Cheng et al. 2021): s times its softmax over all *test* queries.

    Args:
        query_QD: unit vectors.
        item_ID: unit vectors of the searched items.
        query_image_Q: the image of each query; an item is right if it has the same.
        item_image_I: the image of each item.
        bank_RD: unit vectors of other queries of the same kind.
    """
    bias_I, mass_I, active_I = nnn_bias(item_ID, bank_RD), log_mass(item_ID, bank_RD), active_items(item_ID, bank_RD)
    together_I = log_mass(item_ID, query_QD)
    found: dict[str, list[Tensor]] = {"nnn": [], "qb_norm": [], "dual_softmax": []}
    for query_BD, image_B in zip(_blocks(query_QD, item_ID), _blocks(query_image_Q, item_ID), strict=True):
        similarity_BI = query_BD @ item_ID.T
        right_BI = image_B[:, None] == item_image_I[None, :]
        hub_B1 = active_I[similarity_BI.argmax(1)][:, None]
        scores = {
            "nnn": similarity_BI - bias_I,
            "qb_norm": torch.where(hub_B1, similarity_BI - mass_I / BETA, similarity_BI),
            "dual_softmax": similarity_BI * (BETA * similarity_BI - together_I).exp(),
        }
        for name, score_BI in scores.items():
            best_B1 = score_BI.masked_fill(~right_BI, -torch.inf).amax(1, keepdim=True)
            found[name].append(((score_BI >= best_B1) & ~right_BI).sum(1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def hubness_report(
    image_ND: Tensor,
    text_MD: Tensor,
    caption_image_M: Tensor,
    bank_image_RD: Tensor,
    bank_text_RD: Tensor,
    folds: int = 1,
) -> dict[str, Any]:
    """`retrieval_report` by each correction: `{"nnn": …, "qb_norm": …, "dual_softmax": …}`, the mean over the folds.

    Args:
        image_ND, text_MD, caption_image_M, folds: as for `folded_ranks`.
        bank_image_RD, bank_text_RD: the bank's queries, for image to text and for text to image.
    """
    reports: dict[str, list[dict[str, Any]]] = {}
    for image_FD, text_GD, image_G in fold_parts(image_ND, text_MD, caption_image_M, folds):
        image_F = torch.arange(len(image_FD), device=image_G.device)
        i2t = corrected_ranks(image_FD, text_GD, image_F, image_G, bank_image_RD)
        t2i = corrected_ranks(text_GD, image_FD, image_G, image_F, bank_text_RD)
        for name, rank_F in i2t.items():
            reports.setdefault(name, []).append(retrieval_report(rank_F, t2i[name]))
    return {name: mean_report(parts) for name, parts in reports.items()}


def _blocks(row_N: Tensor, other_MD: Tensor) -> Sequence[Tensor]:
    return row_N.split(max(1, BLOCK // max(1, len(other_MD))))
