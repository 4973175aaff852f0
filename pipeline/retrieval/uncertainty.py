"""The uncertainty of metrics over test queries: the bootstrap, for one run and for the difference of two.

Images are resampled, each with its captions: an image's captions are not independent, so text-to-image queries
(captions) are drawn together with their image. Every metric, of both directions and their sum, is computed on the same
resampling, and two runs on the same split share it (paired).

The metrics come from a table with one row per query: `direction` ("i2t" or "t2i"), `query` (row of the image or
caption), `image` (row of its image), `fold`, `rank` (from 0), and, for graded truth, columns `mAP@R` and `R-P` in
percent, empty for a query without labels; `mAP@R_expert` is that of another source. `judged_rank` is the rank over the
whole split where every known match is right.

Shapes: B replicates, N images, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.retrieval.recall import CUTOFFS, DIRECTIONS

if TYPE_CHECKING:
    import pandas

LEVEL = 0.95  # share of the replicates, or draws, between the bounds of every interval
GRADED = ("mAP@R", "R-P")
JUDGED_RANK = "judged_rank"
BLOCK_ENTRIES = 1 << 22  # replicates × queries in memory at a time
SCORE_BINS = 1000


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def figures(queries: pandas.DataFrame, count_N: NDArray[np.int64] | None = None) -> dict[str, float]:
    """The metrics of a table of queries, by their names in `metrics.json`: `{"i2t/R1": …, "rsum": …}`.

    Args:
        queries: as above.
        count_N: how often each image counts, with its captions; None: once.
    """
    count_1N = np.ones((1, _images(queries)), dtype=np.int64) if count_N is None else count_N[None]
    return {name: float(value_1[0]) for name, value_1 in _figures_of(queries, count_1N).items()}


def intervals(queries: pandas.DataFrame, replicates: int, seed: int) -> dict[str, Interval]:
    """Percentile interval of every metric (Efron and Tibshirani 1993, chapter 13), the same for the same seed."""
    return {
        name: _percentiles(value_B)
        for name, value_B in _replicates(queries, replicates, seed).items()
        if not _unknown(value_B)
    }


def paired_differences(
    runs: Sequence[pandas.DataFrame], baselines: Sequence[pandas.DataFrame], replicates: int, seed: int
) -> dict[str, Estimate]:
    """Each metric of some runs minus the baseline's, all on the same resampled queries.

    Each side may have several runs, one per training seed; metrics are averaged over them. The interval covers other
    test queries, not other seeds. The tables must hold the same queries, in any order. A metric that one of them lacks
    is left out.

    Raises:
        ValueError: when the queries differ: the runs were evaluated on different splits or folds.
    """
    key = ["direction", "query", "image", "fold"]
    sides = [[table.sort_values(key) for table in side] for side in (runs, baselines)]
    first = sides[0][0]
    for table in (table for side in sides for table in side):
        if len(table) != len(first) or not (table[key].to_numpy() == first[key].to_numpy()).all():
            raise ValueError("the runs were not judged on the same queries: another split, or other folds")
    point, point_baseline = (_mean_of([figures(table) for table in side]) for side in sides)
    values, values_baseline = (_mean_of([_replicates(table, replicates, seed) for table in side]) for side in sides)
    return {
        name: Estimate(float(point[name] - point_baseline[name]), *_percentiles(apart_B))
        for name in values
        if name in values_baseline and not _unknown(apart_B := values[name] - values_baseline[name])
    }


def _mean_of(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each metric that all have."""
    return {
        name: sum(found[name] for found in measured) / len(measured)
        for name in measured[0]
        if all(name in found for found in measured)
    }


def quality_intervals(
    score_P: NDArray[np.float64],
    true_P: NDArray[np.bool_],
    image_P: NDArray[np.int64],
    replicates: int,
    seed: int,
) -> dict[str, Interval]:
    """Percentile intervals of the area under the ROC curve and of average precision, images resampled.

    Scores are sorted once into bins with equal numbers of true pairs; each replicate then sums its images' histograms
    instead of sorting all pairs again.

    Args:
        score_P: higher means more probably true.
        true_P: the label.
        image_P: the image of each pair, from 0.
        replicates: how many.
        seed: of the resampling.
    """
    edges = np.unique(np.quantile(score_P[true_P], np.linspace(0, 1, SCORE_BINS + 1)))
    bins = len(edges) + 1
    bin_P = bins - 1 - np.searchsorted(edges, score_P, side="right")  # bin 0 holds the highest scores
    image_P = np.unique(image_P, return_inverse=True)[1]
    images = int(image_P.max()) + 1
    true_NK, false_NK = (
        np.bincount(image_P[chosen] * bins + bin_P[chosen], minlength=images * bins).reshape(images, bins)
        for chosen in (true_P, ~true_P)
    )
    area, average = [], []
    for count_BN in _counts(np.zeros(images, dtype=np.int64), replicates, seed, max(images, bins)):
        true_BK, false_BK = (
            count_BN.astype(np.float64) @ held_NK.astype(np.float64) for held_NK in (true_NK, false_NK)
        )
        found_BK, wrong_BK = true_BK.cumsum(axis=1), false_BK.cumsum(axis=1)
        positives_B, negatives_B = found_BK[:, -1], wrong_BK[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            below_BK = negatives_B[:, None] - wrong_BK + false_BK / 2  # ties within a bin: half
            area.append((true_BK * below_BK).sum(axis=1) / (positives_B * negatives_B))
            precision_BK = np.nan_to_num(found_BK / (found_BK + wrong_BK))
            average.append((true_BK * precision_BK).sum(axis=1) / positives_B)
    return {name: _percentiles(np.concatenate(parts)) for name, parts in (("auc", area), ("ap", average)) if parts}


def _replicates(queries: pandas.DataFrame, replicates: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Every metric on every resampling, (B,)."""
    fold_N = np.zeros(_images(queries), dtype=np.int64)
    fold_N[queries["image"].to_numpy()] = queries["fold"].to_numpy()
    blocks = [_figures_of(queries, count_BN) for count_BN in _counts(fold_N, replicates, seed, len(queries))]
    return {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}


def _counts(fold_N: NDArray[np.int64], replicates: int, seed: int, entries: int) -> Iterator[NDArray[np.int64]]:
    """How often each replicate draws each image, in blocks (b, N); each fold is resampled with replacement."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(fold_N == fold) for fold in np.unique(fold_N)]
    block = max(1, BLOCK_ENTRIES // entries)
    for start in range(0, replicates, block):
        count_BN = np.zeros((min(block, replicates - start), len(fold_N)), dtype=np.int64)
        for row_N in count_BN:  # draw replicate by replicate, so that the block size does not change the result
            for member_F in members:
                drawn_F = generator.integers(len(member_F), size=len(member_F))
                row_N[member_F] = np.bincount(drawn_F, minlength=len(member_F))
        yield count_BN


def _figures_of(queries: pandas.DataFrame, count_BN: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """All metrics, with image n counted `count_BN[:, n]` times; averaged over folds, as in the protocol."""
    weight_BN = count_BN.astype(np.float64)
    answer = _recalls_of(queries, "rank", queries["fold"], count_BN)
    if JUDGED_RANK in queries:
        whole = queries["fold"] * 0
        judged = _recalls_of(queries, JUDGED_RANK, whole, count_BN)
        answer |= {f"judged/{name}": value_B for name, value_B in judged.items()}
    for column in queries.columns:
        figure, _, source = column.partition("_")
        for direction in DIRECTIONS if figure in GRADED else ():
            known = queries[(queries["direction"] == direction) & queries[column].notna()]
            if len(known):
                name = f"truth_{source}" if source else "truth"
                value_B = _mean(known[column].to_numpy(), known["image"].to_numpy(), weight_BN)
                answer[f"{name}/{direction}/{figure}"] = value_B
    return answer


def _recalls_of(
    queries: pandas.DataFrame, column: str, fold_Q: pandas.Series, count_BN: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Recalls, their sum and the median rank of a column of ranks; the mean over folds."""
    answer: dict[str, NDArray[np.float64]] = {}
    weight_BN = count_BN.astype(np.float64)
    total_B = np.zeros(len(count_BN))
    for direction in DIRECTIONS:
        of_direction = queries["direction"] == direction
        groups = queries[of_direction].groupby(fold_Q[of_direction])
        folds = [(fold[column].to_numpy(), fold["image"].to_numpy()) for _, fold in groups]
        for cutoff in CUTOFFS:
            shares = [_mean(np.where(rank_Q < cutoff, 100.0, 0.0), image_Q, weight_BN) for rank_Q, image_Q in folds]
            answer[f"{direction}/R{cutoff}"] = np.mean(shares, axis=0)
            total_B += answer[f"{direction}/R{cutoff}"]
        medians = [_median(rank_Q, image_Q, count_BN) for rank_Q, image_Q in folds]
        answer[f"{direction}/median_rank"] = np.mean(medians, axis=0)
    return {**answer, "rsum": total_B}


def _mean(
    value_Q: NDArray[np.float64], image_Q: NDArray[np.int64], weight_BN: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean over queries, each counted as often as its image, (B,); NaN for a replicate without any of them."""
    images = weight_BN.shape[1]
    sum_N = np.bincount(image_Q, weights=value_Q, minlength=images)
    queries_N = np.bincount(image_Q, minlength=images).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray((weight_BN @ sum_N) / (weight_BN @ queries_N))


def _median(rank_Q: NDArray[np.int64], image_Q: NDArray[np.int64], count_BN: NDArray[np.int64]) -> NDArray[np.float64]:
    """The median rank (from 1), each counted as often as its image, rounded down as in `retrieval_report`, (B,)."""
    order_Q = rank_Q.argsort(kind="stable")
    reached_BQ = count_BN[:, image_Q[order_Q]].cumsum(axis=1)
    total_B = reached_BQ[:, -1]
    middle = [(reached_BQ > place_B[:, None]).argmax(axis=1) for place_B in ((total_B - 1) // 2, total_B // 2)]
    low_B, high_B = (rank_Q[order_Q][place_B] for place_B in middle)
    return np.asarray((low_B + high_B) // 2 + 1.0)


def _percentiles(value_B: NDArray[np.float64]) -> Interval:
    low, high = np.nanquantile(value_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _unknown(value_B: NDArray[np.float64]) -> bool:
    return bool(np.isnan(value_B).all())


def _images(queries: pandas.DataFrame) -> int:
    return int(queries["image"].max()) + 1
