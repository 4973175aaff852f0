"""Where retrieval fails: words whose captions do not find their picture, hubs, and queries that another run finds.

Shapes: N images, M captions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.data.captions import clean_caption
from pipeline.errors import InputError
from pipeline.report.curves import Chart
from pipeline.report.gallery import Embedded, Group, retrieval_groups
from pipeline.retrieval.hubs import first_items, skewness
from pipeline.retrieval.recall import DIRECTIONS, recalls

if TYPE_CHECKING:
    import pandas

FEWEST_CAPTIONS = 10  # with a word, for its share of failures to mean something
MOST_ROWS = 16  # words, hubs, queries of another run


@dataclass(frozen=True)
class Word:
    """A word: how many captions have it, and how many of those do not find their picture first."""

    word: str
    captions: int
    failures: int


@dataclass(frozen=True)
class Hub:
    """A picture by its row: how many captions find it first, and how many of them are its own."""

    image: int
    first: int
    own: int


@dataclass(frozen=True)
class Retrieval:
    """What the page shows of retrieval in one split."""

    name: str
    embedded: Embedded
    of: str
    """Whose vectors these are, in words."""
    recalls: Mapping[str, float]
    groups: Sequence[Group]
    words: Sequence[Word]
    overall: float
    """The share of all captions that do not find their picture first."""
    hubs: Sequence[Hub]
    skewness: float
    charts: Sequence[Chart] = ()


def retrieval_of(name: str, embedded: Embedded, of: str, queries: int, charts: Sequence[Chart] = ()) -> Retrieval:
    """What the page shows of a split; `queries`: of each group and direction."""
    i2t_N, t2i_M = embedded.ranks
    first_M = first_items(embedded.text_MD, embedded.image_ND)
    count_N = torch.bincount(first_M, minlength=len(embedded.image_ND))
    failed_M = (t2i_M > 0).tolist()
    return Retrieval(
        name=name,
        embedded=embedded,
        of=of,
        recalls=recalls(i2t_N, t2i_M),
        groups=retrieval_groups(embedded, queries),
        words=worst_words(embedded.split.captions, failed_M),
        overall=sum(failed_M) / len(failed_M),
        hubs=hubs(count_N, first_M, embedded.caption_image_M),
        skewness=skewness(count_N),
        charts=charts,
    )


def worst_words(captions: Sequence[str], failed: Sequence[bool]) -> list[Word]:
    """The words whose captions fail most: largest difference to the overall share, in its standard errors, first."""
    overall = sum(failed) / len(failed)
    found: dict[str, list[bool]] = defaultdict(list)
    for caption, fails in zip(captions, failed, strict=True):
        for word in sorted(set(clean_caption(caption).split())):
            found[word].append(fails)
    error = sqrt(max(overall * (1 - overall), 1e-12))
    words = [Word(word, len(fails), sum(fails)) for word, fails in found.items() if len(fails) >= FEWEST_CAPTIONS]
    excess = {word: (word.failures / word.captions - overall) * sqrt(word.captions) / error for word in words}
    worst = sorted(words, key=lambda word: (-excess[word], word.word))[:MOST_ROWS]
    return [word for word in worst if excess[word] > 0]


def hubs(count_N: Tensor, first_M: Tensor, caption_image_M: Tensor) -> list[Hub]:
    """The pictures that come first most often for captions that are not theirs."""
    own_N = torch.bincount(first_M[first_M == caption_image_M], minlength=len(count_N))
    foreign_N = count_N - own_N
    best = foreign_N.argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    return [Hub(image, int(count_N[image]), int(own_N[image])) for image in best if foreign_N[image] > 0]


@dataclass(frozen=True)
class Duel:
    """A query that one run finds and the other does not: its rows, and both ranks from 1."""

    direction: str
    image: int
    caption: int | None
    ours: int
    theirs: int


@dataclass(frozen=True)
class Against:
    """Two runs on the same queries: how many one wins and the other loses, by direction, and some of them."""

    name: str
    won: Mapping[str, int]
    lost: Mapping[str, int]
    duels: Sequence[Duel]


def against(name: str, ours: pandas.DataFrame, theirs: pandas.DataFrame, label: str) -> Against:
    """Compare two tables of queries (`evaluation/ranks.parquet`); shows the largest differences of ranks.

    Raises:
        InputError: when they are not of the same queries; `label` names the other one.
    """
    keys = ["direction", "query", "image"]
    if len(ours) != len(theirs) or not (ours[keys].to_numpy() == theirs[keys].to_numpy()).all():
        raise InputError(f"{label}: {len(theirs)} queries, not the {len(ours)} of this run: another test split")
    table = ours[keys].assign(ours=ours["rank"], theirs=theirs["rank"])
    won = table[(table["ours"] == 0) & (table["theirs"] > 0)].sort_values("theirs", ascending=False, kind="stable")
    lost = table[(table["ours"] > 0) & (table["theirs"] == 0)].sort_values("ours", ascending=False, kind="stable")
    duels, counts = [], []
    for part in (won, lost):
        by_direction = {direction: part[part["direction"] == direction] for direction in DIRECTIONS}
        counts.append({direction: len(queries) for direction, queries in by_direction.items()})
        for direction, queries in by_direction.items():
            shown = queries[["query", "image", "ours", "theirs"]].head(MOST_ROWS // 2)
            for query, image, ours_rank, theirs_rank in shown.to_numpy().tolist():
                caption = None if direction == "i2t" else query
                duels.append(Duel(direction, image, caption, ours_rank + 1, theirs_rank + 1))
    return Against(name, counts[0], counts[1], duels)
