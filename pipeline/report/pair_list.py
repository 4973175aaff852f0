"""A list of pairs as the report shows it: which pairs, why, and how many of the first are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.data.splits.format import Split

if TYPE_CHECKING:
    import pandas

CUTOFFS = (20, 60, 200)
MOST_OF_ONE = 3  # pairs with the same image, and with the same caption text
CHUNK_PAIRS = 1 << 14

Pair = tuple[str, int, int, float]
"""Name of the split, rows of its image and caption, and the value that ranks the pair."""


@dataclass(frozen=True)
class Precision:
    """`right` of the `judged` pairs among the `first` of a list; the others have no label."""

    first: int
    right: int
    judged: int

    def __str__(self) -> str:
        return f"{self.right} of {self.judged}" + (f" judged among {self.first}" if self.judged < self.first else "")


@dataclass(frozen=True)
class Reason:
    """One kind of evidence about a pair, its value, and what a person reads of it."""

    kind: str
    value: float
    text: str


@dataclass(frozen=True)
class PairList:
    """Pairs, most suspicious first.

    `table` has `split`, `image`, `caption` (rows of that split) and the column `measure`; `how` says in words where the
    order comes from; `precision` is that of the whole ranking, of which the table may hold only the first; `reasons`
    has a list for each row, or is empty.
    """

    table: pandas.DataFrame
    measure: str
    how: str
    precision: Sequence[Precision]
    reasons: Sequence[Sequence[Reason]] = ()

    def rows(self) -> list[dict[Any, Any]]:
        """The table's rows, each with its `reasons`."""
        by_row = self.reasons or [()] * len(self.table)
        return [row | {"reasons": found} for row, found in zip(self.table.to_dict("records"), by_row, strict=True)]


def precision_at(verdicts: Sequence[bool | None]) -> list[Precision]:
    """How many of the first 20, 60 and 200 are right; None has no label. Empty if none has one."""
    firsts = sorted({min(cutoff, len(verdicts)) for cutoff in CUTOFFS})
    judged = [[verdict for verdict in verdicts[:first] if verdict is not None] for first in firsts]
    if not judged[-1]:
        return []
    return [Precision(first, sum(known), len(known)) for first, known in zip(firsts, judged, strict=True)]


def best_pairs(listed: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Iterator[Pair]:
    """The pairs of several splits by value, largest first; for each split `(image_P, caption_P, value_P)`.

    Equal values are in a random order that is always the same: coarse evidence makes hundreds of them, and in the order
    of their ids the first would be of a few images.
    """
    names = list(listed)
    split_P = torch.cat([torch.full((len(part[2]),), place) for place, part in enumerate(listed.values())])
    image_P, caption_P, value_P = (torch.cat(column) for column in zip(*listed.values(), strict=True))
    shuffled_P = torch.randperm(len(value_P), generator=torch.Generator().manual_seed(0))
    order_P = shuffled_P[value_P[shuffled_P].argsort(descending=True, stable=True)]
    for chunk_B in order_P.split(CHUNK_PAIRS):
        columns = (column[chunk_B].tolist() for column in (split_P, image_P, caption_P, value_P))
        for place, image, caption, value in zip(*columns, strict=True):
            yield names[place], image, caption, value


def varied(pairs: Iterable[Pair], splits: Mapping[str, Split], count: int) -> list[Pair]:
    """The first `count` pairs, at most `MOST_OF_ONE` with the same image or with the same caption text.

    An image with the same text counts once: several captions can have equal words.
    """
    chosen: list[Pair] = []
    uses: Counter[tuple[object, ...]] = Counter()
    for name, image, caption, value in pairs:
        if len(chosen) == count:
            break
        text = splits[name].captions[caption]
        picture, words, both = (name, image), (text,), (name, image, text)
        if not uses[both] and max(uses[picture], uses[words]) < MOST_OF_ONE:
            uses.update([picture, words, both])
            chosen.append((name, image, caption, value))
    return chosen
