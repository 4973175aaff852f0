"""Metrics against graded truth, which, unlike recall at K, do not count a false negative as an error."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ROWS = 512


def precision_at_r(
    query_QD: Tensor, item_ID: Tensor, true_query_P: Tensor, true_item_P: Tensor, chunk_size: int = CHUNK_ROWS
) -> tuple[Tensor, Tensor]:
    """mAP@R and R-Precision of every query that has a true item (Musgrave et al. 2020).

    For a query with R true items, R-Precision is the share of true items in the first R ranks; mAP@R is the sum of the
    precision at each rank up to R that holds a true item, divided by R.

    Args:
        query_QD: unit vectors.
        item_ID: unit vectors of the searched items.
        true_query_P: row of the query of each true pair.
        true_item_P: row of its item.
        chunk_size: rows of the similarity matrix in memory at a time.

    Returns:
        (map_at_r, r_precision), one value per query with at least one true item, in [0, 1], float64.
    """
    average, precision = [], []
    for query_BD, true_BI in _chunks(query_QD, len(item_ID), true_query_P, true_item_P, chunk_size):
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


def judged_precision_at_r(score_P: Tensor, query_P: Tensor, true_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """mAP@R and R-Precision where only some pairs have a label: only a query's labelled items are ranked.

    An item without a label is neither right nor wrong, so it takes no rank. A query whose labelled items are all true,
    or all false, gives no information and is left out. Equal scores count against the model.

    Args:
        score_P: similarity of each labelled pair.
        query_P: its query, from 0.
        true_P: bool, its label.

    Returns:
        (query_A, map_at_r_A, r_precision_A): the queries with both labels, ascending, and their metrics in [0, 1],
        float64.
    """
    order_P = true_P.long().argsort(stable=True)
    order_P = order_P[score_P[order_P].argsort(descending=True, stable=True)]
    order_P = order_P[query_P[order_P].argsort(stable=True)]
    query_A, place_P, judged_A = query_P[order_P].unique_consecutive(return_inverse=True, return_counts=True)
    true_P = true_P[order_P].double()
    relevant_A = torch.zeros(len(query_A), dtype=torch.float64).index_add(0, place_P, true_P)
    first_A = judged_A.cumsum(0) - judged_A
    rank_P = torch.arange(1, len(order_P) + 1) - first_A[place_P]
    # true items of the query up to each pair's rank: the cumulative sum minus that of earlier queries
    found_P = true_P.cumsum(0) - (relevant_A.cumsum(0) - relevant_A)[place_P]
    hit_P = true_P * (rank_P <= relevant_A[place_P])
    average_A = torch.zeros_like(relevant_A).index_add(0, place_P, hit_P * found_P / rank_P) / relevant_A
    precision_A = torch.zeros_like(relevant_A).index_add(0, place_P, hit_P) / relevant_A
    both_A = (relevant_A > 0) & (relevant_A < judged_A)
    return query_A[both_A], average_A[both_A], precision_A[both_A]


def ranking_quality(score_P: Tensor, true_P: Tensor) -> dict[str, float]:
    """Area under the ROC curve and average precision of a score: `{"auc": …, "ap": …}`.

    Args:
        score_P: higher means more probably true.
        true_P: bool; both classes must occur.

    Raises:
        ValueError: when one class is missing.
    """
    positives = int(true_P.sum())
    if not 0 < positives < len(true_P):
        raise ValueError(f"{positives} of {len(true_P)} pairs are true: both classes are needed")
    found_T, taken_T = counts_by_threshold(score_P, true_P)
    right_T, new_T = (counted.diff(prepend=counted.new_zeros(1)) for counted in (found_T, taken_T))
    area = ((new_T - right_T) * (found_T - right_T / 2)).sum()  # equal scores count half
    average = (right_T * found_T / taken_T).sum()
    return {"auc": float(area) / (positives * (len(true_P) - positives)), "ap": float(average) / positives}


def counts_by_threshold(score_P: Tensor, true_P: Tensor) -> tuple[Tensor, Tensor]:
    """The true pairs, and all pairs, with at least each of the T different scores, highest first; (T,), float64."""
    score_P, order_P = score_P.cpu().sort(descending=True)
    if score_P.isnan().any():
        raise ValueError("a score is NaN")
    last_P = torch.cat([score_P[1:] != score_P[:-1], torch.ones(1, dtype=torch.bool)])
    found_P = true_P.cpu()[order_P].double().cumsum(0)
    return found_P[last_P], torch.arange(1, len(score_P) + 1, dtype=torch.float64)[last_P]


# Fixed, so that two runs' curves can be compared; finer near 0, where almost all pairs are.
RELIABILITY_EDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def reliability(probability_P: Tensor, true_P: Tensor) -> list[dict[str, float]]:
    """The reliability curve: the share of true pairs by predicted probability; equal to it if calibrated.

    Args:
        probability_P: in [0, 1].
        true_P: bool.

    Returns:
        One row per non-empty bin: `low` and `high` (the last bin includes 1), `mean_posterior`, `true_share`, `count`.
    """
    probability_P = probability_P.double()
    bins = len(RELIABILITY_EDGES) - 1
    inner = torch.tensor(RELIABILITY_EDGES[1:-1], dtype=torch.float64)
    bin_P = torch.bucketize(probability_P, inner, right=True)
    count = torch.bincount(bin_P, minlength=bins)
    total = torch.bincount(bin_P, weights=probability_P, minlength=bins)
    true = torch.bincount(bin_P, weights=true_P.double(), minlength=bins)
    return [
        {
            "low": RELIABILITY_EDGES[index],
            "high": RELIABILITY_EDGES[index + 1],
            "mean_posterior": (total[index] / count[index]).item(),
            "true_share": (true[index] / count[index]).item(),
            "count": int(count[index]),
        }
        for index in range(bins)
        if count[index]
    ]


def calibration_error(probability_P: Tensor, true_P: Tensor) -> float:
    """Expected calibration error: the mean, over pairs, of |mean probability - share of true pairs| of their bin.

    Args:
        probability_P: in [0, 1].
        true_P: bool.

    Returns:
        In [0, 1]; bins as in `reliability`.
    """
    rows = reliability(probability_P, true_P)
    return sum(row["count"] * abs(row["mean_posterior"] - row["true_share"]) for row in rows) / len(true_P)


def known_ranks(
    query_QD: Tensor, item_ID: Tensor, right_query_P: Tensor, right_item_P: Tensor, chunk_size: int = CHUNK_ROWS
) -> Tensor:
    """Rank (from 0) of each query's best right item among the items that are not known to be right, (Q,), int64.

    The number of other items that are at least as similar as the best right one: ties count against the model.

    Args:
        query_QD: unit vectors.
        item_ID: unit vectors of the searched items.
        right_query_P: row of the query of each right pair; every query has at least one, and pairs may be repeated.
        right_item_P: row of its item.
        chunk_size: rows of the similarity matrix in memory at a time.
    """
    ranks = []
    for query_BD, right_BI in _chunks(query_QD, len(item_ID), right_query_P, right_item_P, chunk_size):
        similarity_BI = query_BD @ item_ID.T
        best_B1 = similarity_BI.masked_fill(~right_BI, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((similarity_BI >= best_B1) & ~right_BI).sum(dim=1))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.long)


def _chunks(
    query_QD: Tensor, items: int, query_P: Tensor, item_P: Tensor, chunk_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some queries at a time, and which of the items make a pair with each: (B, D), and (B, I) bool."""
    for start in range(0, len(query_QD), chunk_size):
        query_BD = query_QD[start : start + chunk_size]
        inside_P = (query_P >= start) & (query_P < start + len(query_BD))
        paired_BI = torch.zeros(len(query_BD), items, dtype=torch.bool, device=query_BD.device)
        paired_BI[query_P[inside_P] - start, item_P[inside_P]] = True
        yield query_BD, paired_BI
