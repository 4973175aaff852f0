"""Unpaired images and captions that most probably match: by the evidence, else by the trained similarity.

Shapes: N images, M captions, B images at a time, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from pipeline.report.gallery import Embedded
from pipeline.report.labels import VERDICTS, Labelled
from pipeline.report.pair_list import Pair, PairList, best_pairs, precision_at, varied

CHUNK_ROWS = 128  # of the similarity matrix; its posterior is computed in float64
REPEATS = 8  # search this many times the requested pairs: see `varied`


def by_evidence(
    columns: Mapping[str, tuple[Tensor, Tensor, Tensor]], splits: Mapping[str, Labelled], count: int
) -> list[Pair]:
    """The pairs with the highest posterior, `columns` as `match_columns` gives them."""
    return varied(best_pairs(columns), {name: splits[name].split for name in columns}, count)


def by_similarity(embedded: Embedded, name: str, posterior: Callable[[Tensor], Tensor], count: int) -> list[Pair]:
    """The pairs of one split with the highest posterior of the trained similarity; of equal ones the most similar."""
    return varied(_most_probable(embedded, name, posterior, count * REPEATS), {name: embedded.split}, count)


def false_negative_list(pairs: list[Pair], splits: Mapping[str, Labelled], how: str, count: int) -> PairList:
    """The first `count` pairs, with the trained `similarity` (NaN where the split is not encoded) and their `mark`."""
    import pandas

    rows = []
    for name, image, caption, posterior in pairs:
        of = splits[name]
        similarity = float(of.image_ND[image] @ of.text_MD[caption]) if isinstance(of, Embedded) else math.nan
        rows.append((name, image, caption, similarity, posterior, of.mark(image, caption)))
    table = pandas.DataFrame(rows, columns=["split", "image", "caption", "similarity", "posterior", "mark"])
    precision = precision_at([VERDICTS.get(mark) for mark in table["mark"]])
    return PairList(table.head(count), "posterior", how, precision)


def _most_probable(embedded: Embedded, name: str, posterior: Callable[[Tensor], Tensor], count: int) -> Iterator[Pair]:
    """Unpaired pairs, best first, without the whole N × M matrix."""
    best: list[tuple[int, int, float, float]] = []
    for start in range(0, len(embedded.image_ND), CHUNK_ROWS):
        image_BD = embedded.image_ND[start : start + CHUNK_ROWS]
        similarity_BM = image_BD @ embedded.text_MD.T
        own_BM = embedded.caption_image_M[None, :] == torch.arange(start, start + len(image_BD))[:, None]
        chance_BM = posterior(similarity_BM).masked_fill(own_BM, -1)
        lowest = chance_BM.flatten().topk(min(count, chance_BM.numel())).values[-1]
        row_P, caption_P = ((chance_BM >= lowest) & ~own_BM).nonzero(as_tuple=True)
        similarity_P, chance_P = similarity_BM[row_P, caption_P], chance_BM[row_P, caption_P]
        by_similarity = similarity_P.argsort(descending=True, stable=True)  # any number of pairs may tie
        order = by_similarity[chance_P[by_similarity].argsort(descending=True, stable=True)][:count]
        columns = (row_P + start, caption_P, similarity_P, chance_P)
        best += zip(*(column[order].tolist() for column in columns), strict=True)
        best = sorted(best, key=lambda pair: (-pair[3], -pair[2], pair[0], pair[1]))[:count]
    return ((name, image, caption, chance) for image, caption, _, chance in best)
