"""The evaluation of a trained model: ranks, recalls, metrics against the truth, and the data of the plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.splits.truth_file import JUDGED, Truth
from pipeline.errors import InputError
from pipeline.evaluation.encoded import Encoded
from pipeline.evaluation.unpaired import Chance, Unpaired, quality_limits, quality_report, unpaired_pairs
from pipeline.evidence.captions import pair_similarity
from pipeline.retrieval.recall import DIRECTIONS, folded_ranks, mean_report, recall_at, retrieval_report
from pipeline.retrieval.relevance import judged_precision_at_r, known_ranks, precision_at_r
from pipeline.retrieval.uncertainty import JUDGED_RANK, intervals
from pipeline.sampling.posterior import false_negative_posterior
from pipeline.sampling.strategies import fne_weights
from pipeline.training.record import Moment, SamplerRecord

if TYPE_CHECKING:
    import pandas

CURVE_POINTS = 200
HIGHEST_LOW = 0.99  # curves begin at or below this, also for collapsed towers, whose similarities are all 1
RECALL_DEPTH = 50
MOST_FOLDS = 20  # listed in a message


@dataclass(frozen=True)
class Judgment:
    """One model's metrics, each query's contribution to them, and the reliability of its posterior."""

    report: dict[str, Any]
    """Nested as in `metrics.json`."""
    queries: pandas.DataFrame
    """One row per query, in the format of `pipeline.retrieval.uncertainty`."""
    unpaired: dict[str, Unpaired]
    """By source of truth, if it has both true and false pairs."""
    ranks: list[tuple[Tensor, Tensor]]
    """Of each fold's images and captions, from 0."""


def check_folds(folds: int, images: int) -> None:
    """Refuse a number of folds that does not divide the number of images.

    Raises:
        InputError: naming the key, the number of images, and the possible numbers of folds.
    """
    if folds > images or images % folds:
        possible = [str(number) for number in range(1, min(images, MOST_FOLDS) + 1) if images % number == 0]
        raise InputError(
            f"params.yaml: evaluate.folds = {folds}: the test split's {images} images do not divide into as many equal "
            f"folds; possible: {', '.join(possible)}"
        )


def judge(
    encoded: Encoded,
    folds: int,
    truths: Mapping[str, Truth],
    moment: Moment,
    sampler: SamplerRecord,
    evidence: Chance | None = None,
) -> Judgment:
    """Compute all metrics of one model on one split.

    Metrics against the first source of truth are named `truth`, `posterior`, `similarity`, `evidence` and `near` (the
    same of each image's nearest captions); those against another one `truth_expert` and so on. `judged` has the recalls
    where every match that a source knows is right. Recalls do not depend on the evidence.

    Args:
        encoded: the split.
        folds: recalls are the mean over this number of contiguous folds; metrics against the truth use the whole split.
        truths: the labels of its pairs, by source.
        moment: the run's statistics at the epoch of these weights.
        sampler: the run's settings.
        evidence: the probability of a match from evidence, to be compared; None: there is none.
    """
    ranks = folded_ranks(encoded.image_ND, encoded.text_MD, encoded.caption_image_M, folds)
    report = mean_report([retrieval_report(*fold) for fold in ranks])
    queries = _queries(encoded, ranks)
    if truths:
        judged = _judged_ranks(encoded, truths.values())
        report["judged"] = retrieval_report(*judged)
        queries[JUDGED_RANK] = torch.cat(judged).cpu().numpy()
    unpaired = {}
    for number, (source, truth) in enumerate(truths.items()):
        suffix = _suffix(number, source)
        graded: dict[str, dict[str, float]] = {}
        for direction in DIRECTIONS:
            query_A, metrics = _graded(encoded, truth, direction)
            row_A = query_A.numpy() + (len(encoded.image_ND) if direction == "t2i" else 0)
            for name, value_A in metrics.items() if len(query_A) else ():
                graded.setdefault(direction, {})[name] = 100 * value_A.mean().item()
                if name + suffix not in queries:
                    queries[name + suffix] = float("nan")
                queries.loc[row_A, name + suffix] = 100 * value_A.numpy()
        if graded:
            report[f"truth{suffix}"] = graded
        pairs = unpaired_pairs(encoded, truth, partial(posterior, moment=moment, sampler=sampler), evidence)
        if quality := quality_report(pairs):
            unpaired[source] = pairs
            report |= {name + suffix: found for name, found in quality.items()}
    return Judgment(report, queries, unpaired, ranks)


def _suffix(number: int, source: str) -> str:
    return f"_{source}" if number or source == JUDGED else ""


def _queries(encoded: Encoded, ranks: list[tuple[Tensor, Tensor]]) -> pandas.DataFrame:
    """Images first, then captions, each in the split's order."""
    import pandas

    images = len(encoded.image_ND)
    fold_N = np.repeat(np.arange(len(ranks)), [len(i2t_F) for i2t_F, _ in ranks])
    image_M = encoded.caption_image_M.cpu().numpy()
    fold_M = fold_N[image_M]
    t2i_M = np.empty(len(image_M), dtype=np.int64)
    for fold, (_, t2i_F) in enumerate(ranks):
        t2i_M[fold_M == fold] = t2i_F.cpu().numpy()
    i2t_N = torch.cat([i2t_F for i2t_F, _ in ranks]).cpu().numpy()
    return pandas.DataFrame(
        {
            "direction": ["i2t"] * images + ["t2i"] * len(image_M),
            "query": np.concatenate([np.arange(images), np.arange(len(image_M))]),
            "image": np.concatenate([np.arange(images), image_M]),
            "fold": np.concatenate([fold_N, fold_M]),
            "rank": np.concatenate([i2t_N, t2i_M]),
        }
    )


def _graded(encoded: Encoded, truth: Truth, direction: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The queries with enough labels, (A,), and mAP@R and R-Precision of each, in [0, 1]."""
    asked_P = truth.asked_P[direction]
    image_P, caption_P = torch.from_numpy(truth.image_P[asked_P]), torch.from_numpy(truth.caption_P[asked_P])
    true_P = torch.from_numpy(truth.true_P[asked_P])
    query_P, item_P = (image_P, caption_P) if direction == "i2t" else (caption_P, image_P)
    if truth.exact:
        query_QD, item_ID = encoded.image_ND, encoded.text_MD
        if direction == "t2i":
            query_QD, item_ID = item_ID, query_QD
        query_A = query_P[true_P].unique()
        # only labelled queries: ECCV has labels for 1 332 of COCO's 25 010 captions
        place_P = torch.searchsorted(query_A, query_P[true_P])
        average_A, precision_A = precision_at_r(query_QD[query_A], item_ID, place_P, item_P[true_P])
    else:
        score_P = pair_similarity(encoded.image_ND, encoded.text_MD, image_P, caption_P).cpu()
        query_A, average_A, precision_A = judged_precision_at_r(score_P, query_P, true_P)
    return query_A, {"mAP@R": average_A.cpu(), "R-P": precision_A.cpu()}


def _judged_ranks(encoded: Encoded, truths: Iterable[Truth]) -> tuple[Tensor, Tensor]:
    """Ranks over the whole split where each pair that is known to match is right; what nobody judged is wrong."""
    image_M = encoded.caption_image_M.cpu()
    image, caption = [image_M], [torch.arange(len(image_M))]
    for truth in truths:
        image.append(torch.from_numpy(truth.image_P[truth.true_P]))
        caption.append(torch.from_numpy(truth.caption_P[truth.true_P]))
    image_P, caption_P = (torch.cat(part).long().to(encoded.image_ND.device) for part in (image, caption))
    i2t_N = known_ranks(encoded.image_ND, encoded.text_MD, image_P, caption_P)
    return i2t_N, known_ranks(encoded.text_MD, encoded.image_ND, caption_P, image_P)


def judgment_intervals(judgment: Judgment, replicates: int, seed: int) -> dict[str, Any]:
    """95 % intervals of every metric of a report, nested in the same way: `{"i2t": {"R1": [low, high], …}, …}`."""
    nested: dict[str, Any] = {}
    for name, interval in intervals(judgment.queries, replicates, seed).items():
        *path, last = name.split("/")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = list(interval)
    for number, (source, pairs) in enumerate(judgment.unpaired.items()):
        for name, found in quality_limits(pairs, replicates, seed).items():
            nested[name + _suffix(number, source)] = found
    return nested


def posterior(similarity: Tensor, moment: Moment, sampler: SamplerRecord) -> Tensor:
    """The false-negative posterior from a run's statistics at a moment of its training, float64."""
    statistics = moment.statistics
    return false_negative_posterior(similarity.double(), statistics.positive, statistics.negative, sampler.prior)


def similarity_curves(encoded: Encoded, moment: Moment, sampler: SamplerRecord) -> pandas.DataFrame:
    """By similarity: the densities of the captions' similarity to their own image and to the nearest other image, the
    posterior, and FNE's weight of a candidate for an average anchor (whose own similarity is μ+).
    """
    import pandas

    matched_M, mismatch_M = _nearest(encoded)
    low = min(torch.cat([matched_M, mismatch_M]).min().item(), HIGHEST_LOW)
    edges = np.linspace(low, 1.0, CURVE_POINTS + 1)
    centre_C = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    statistics: Any = moment.statistics  # numbers with the names that `fne_weights` reads
    weight_1C = fne_weights(
        centre_C[None],
        matched_M.double().mean()[None],
        torch.zeros(1, CURVE_POINTS, dtype=torch.bool),
        statistics,
        cutdown=sampler.cutdown,
        alpha=sampler.alpha,
        prior=sampler.prior,
        suspect=sampler.suspect,
        min_matches=sampler.min_matches,
        suspect_alpha=sampler.suspect_alpha,
    )
    return pandas.DataFrame(
        {
            "similarity": centre_C.numpy(),
            "matched": np.histogram(matched_M.numpy(), edges, density=True)[0],
            # a split of one image has no mismatch
            "unmatched": np.histogram(mismatch_M.numpy(), edges, density=True)[0] if len(mismatch_M) else 0.0,
            "posterior": posterior(centre_C, moment, sampler).numpy(),
            "weight": weight_1C[0].numpy(),
        }
    )


def recall_curve(ranks: Sequence[tuple[Tensor, Tensor]]) -> pandas.DataFrame:
    """Recall by K, in percent, the mean over folds as in the report: columns `K`, `image to text`, `text to image`."""
    import pandas

    depths = range(1, min(RECALL_DEPTH, *(len(i2t_F) for i2t_F, _ in ranks)) + 1)
    image, text = (
        [np.mean([recall_at(part, depth) for part in side]) for depth in depths] for side in zip(*ranks, strict=True)
    )
    return pandas.DataFrame({"K": depths, "image to text": image, "text to image": text})


def _nearest(encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Every caption's similarity to its own image and to the most similar other one."""
    matched, mismatch = [], []
    for text_BD, own_B in zip(encoded.text_MD.split(1024), encoded.caption_image_M.split(1024), strict=True):
        similarity_BN = (text_BD @ encoded.image_ND.T).cpu()
        matched.append(similarity_BN.gather(1, own_B[:, None]).squeeze(1))
        mismatch.append(similarity_BN.scatter(1, own_B[:, None], -torch.inf).amax(dim=1))
    mismatch_M = torch.cat(mismatch)
    return torch.cat(matched).clamp(max=1), mismatch_M[mismatch_M.isfinite()].clamp(max=1)  # rounding can exceed 1
