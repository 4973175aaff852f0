"""Figures against graded truth: recall at K counts a false negative as an error, these do not."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ROWS = 512


def precision_at_r(
    query_QD: Tensor, item_ID: Tensor, true_query_P: Tensor, true_item_P: Tensor, chunk_size: int = CHUNK_ROWS
) -> tuple[Tensor, Tensor]:
    """mAP@R and R-Precision of every query that has a true item (Musgrave et al. 2020).

    With R true items of a query, R-Precision is their share among its first R; mAP@R averages the precision at each
    rank up to R that holds a true item, over R.

    Args:
        query_QD: unit vectors.
        item_ID: unit vectors of what is searched.
        true_query_P: row of the query of each true pair.
        true_item_P: row of its item.
        chunk_size: rows of the similarity matrix that are held at a time.

    Returns:
        (map_at_r, r_precision), one figure a query with at least one true item, in [0, 1], float64.
    """
    average, precision = [], []
    for start in range(0, len(query_QD), chunk_size):
        query_BD = query_QD[start : start + chunk_size]
        inside_P = (true_query_P >= start) & (true_query_P < start + len(query_BD))
        true_BI = torch.zeros(len(query_BD), len(item_ID), dtype=torch.bool, device=query_BD.device)
        true_BI[true_query_P[inside_P] - start, true_item_P[inside_P]] = True
        relevant_B = true_BI.sum(dim=1)
        if not relevant_B.any():
            continue
        depth = int(relevant_B.max())
        best_BK = (query_BD @ item_ID.T).topk(depth, dim=1).indices
        rank_K = torch.arange(1, depth + 1, device=query_BD.device)
        hit_BK = true_BI.gather(1, best_BK) & (rank_K <= relevant_B[:, None])
        precision_BK = hit_BK.cumsum(dim=1) / rank_K.double()
        asked_B = relevant_B > 0
        average.append(((precision_BK * hit_BK).sum(dim=1) / relevant_B)[asked_B])
        precision.append((hit_BK.sum(dim=1).double() / relevant_B)[asked_B])
    empty = torch.empty(0, dtype=torch.float64)
    return (torch.cat(average), torch.cat(precision)) if average else (empty, empty)


def ranking_quality(score_P: Tensor, true_P: Tensor) -> dict[str, float]:
    """Area under the ROC curve and average precision of a score for what is true: `{"auc": …, "ap": …}`.

    Args:
        score_P: the higher, the more probably true.
        true_P: bool; both classes must occur.

    Raises:
        ValueError: when one class is missing.
    """
    import numpy as np
    from sklearn.metrics import auc, roc_curve

    positives = int(true_P.sum())
    if not 0 < positives < len(true_P):
        raise ValueError(f"{positives} of {len(true_P)} pairs are true: both classes are needed")
    # every threshold is kept, so that one sort of the pairs serves both figures
    false_share, true_share, _ = roc_curve(true_P.cpu().numpy(), score_P.cpu().numpy(), drop_intermediate=False)
    found = true_share[1:] * positives
    precision = found / (found + false_share[1:] * (len(true_P) - positives))
    return {"auc": float(auc(false_share, true_share)), "ap": float((np.diff(true_share) * precision).sum())}
