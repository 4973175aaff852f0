"""Captions that have something in common, and swaps between them: wrong pairs that are hard to tell from right ones.

A swap is mutual, between two captions of different images that do not say the same. Shapes: M captions, L words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.captions import clean_caption

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORDS_BETWEEN = """
a an the this that these those his her its their my your our some many several few one two three four five six
another each every both in on at of with by to into onto from over under above below behind beside near next through
across along around against between among for up down off out toward towards while as and or but is are was were be
been being has have had do does who which where there it he she they them him not very look stand sit run walk jump
hold play wear lay lie ride take catch pose shake climb watch smile leap other together outside inside after front
back side top
"""
"""What stands between the noun phrases of captions: determiners, prepositions, conjunctions, pronouns, some verbs."""
BETWEEN = frozenset(WORDS_BETWEEN.split())
PLURALS = {"men": "man", "women": "woman", "children": "child", "people": "person"}
SHARE = 0.5  # of a word's occurrences; a word that ends a noun phrase more rarely is no noun
NEIGHBOURS, BLOCK_ROWS = 20, 512


def caption_nouns(captions: Sequence[str]) -> list[frozenset[str]]:
    """The nouns of each caption, by a rule and counting, without a dictionary.

    A phrase ends before a word of `BETWEEN`, before a word in -ing or -ed, and with the caption; its last word is a
    candidate. A candidate is a noun if at least half of its occurrences in all captions end a phrase. A plural in -s
    counts as its singular. It takes some verbs and adjectives for nouns, and misses nouns that rarely end a phrase.
    """
    heads, said, ended = [], Counter[str](), Counter[str]()
    for caption in captions:
        words = [_singular(word) for word in clean_caption(caption).split()]
        found = set()
        for word, following in zip(words, [*words[1:], "and"], strict=True):
            if not _ends(word) and _ends(following):
                found.add(word)
                ended[word] += 1
        said.update(words)
        heads.append(found)
    return [frozenset(word for word in found if ended[word] >= SHARE * said[word]) for found in heads]


def _ends(word: str) -> bool:
    return word in BETWEEN or (len(word) > 4 and word.endswith(("ing", "ed")))


def _singular(word: str) -> str:
    if word in PLURALS or word.endswith(("ches", "shes", "sses", "xes")):
        return PLURALS.get(word, word[:-2])
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def swaps_by_label(
    labels_M: Sequence[Collection[str]], chosen: NDArray[np.int64], same: Same, draw: np.random.RandomState
) -> NDArray[np.int64]:
    """A permutation that swaps chosen captions which share a label; those without a partner stay.

    Args:
        labels_M: what each caption, or its image, is labelled with.
        chosen: rows of captions.
        same: which captions must not be swapped.
        draw: decides on the order of the captions, and of each caption's labels.
    """
    permutation_M, free = np.arange(len(labels_M)), set(chosen.tolist())
    order = draw.permutation(np.sort(chosen)).tolist()
    pools: dict[str, list[int]] = defaultdict(list)
    for row in order:
        for label in labels_M[row]:
            pools[label].append(row)
    for row in order:
        labels = sorted(labels_M[row]) if row in free else []
        for place in draw.permutation(len(labels)).tolist():
            if (partner := _partner(row, pools[labels[place]], free, same)) is not None:
                permutation_M[[row, partner]] = partner, row
                free -= {row, partner}
                break
    return permutation_M


def _partner(row: int, pool: list[int], free: set[int], same: Same) -> int | None:
    """Take the last caption of `pool` that `row` can be swapped with; forget those that are not free."""
    kept, found = [], None
    while pool and found is None:
        other = pool.pop()
        if other in free and same(row, other):
            kept.append(other)
        elif other in free:
            found = other
    pool.extend(reversed(kept))
    return found


class Same:
    """Whether two captions are of the same image, or say the same after clean-up."""

    def __init__(self, captions: Sequence[str], caption_image: Sequence[int]) -> None:
        numbers: dict[str, int] = {}
        cleaned = (clean_caption(caption) for caption in captions)
        self.text_M = np.array([numbers.setdefault(text, len(numbers)) for text in cleaned])
        self.image_M = np.asarray(caption_image)

    def __call__(self, row: int, other: int) -> bool:
        """For two captions."""
        return bool(self.image_M[row] == self.image_M[other] or self.text_M[row] == self.text_M[other])


def swaps_by_words(captions: Sequence[str], chosen: NDArray[np.int64], same: Same) -> NDArray[np.int64]:
    """A permutation that swaps the chosen captions with the most similar words, the most similar two first.

    Similarity is the cosine of TF-IDF vectors of the cleaned captions. A caption looks at its 20 most similar ones that
    are not swapped yet, and again once all of them are. Captions without a word in common stay.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    cleaned = [clean_caption(caption) for caption in captions]
    vector_ML = TfidfVectorizer(analyzer=str.split).fit_transform(cleaned)
    permutation_M, free = np.arange(len(captions)), np.sort(chosen)
    while len(free) > 1:
        similarity, first, second = (np.concatenate(part) for part in zip(*_near(vector_ML, free, same), strict=True))
        left = set(free.tolist())
        for place in np.lexsort((second, first, -similarity)).tolist():
            row, other = int(first[place]), int(second[place])
            if similarity[place] > 0 and row in left and other in left:
                permutation_M[[row, other]] = other, row
                left -= {row, other}
        if len(left) == len(free):
            break
        free = np.array(sorted(left))
    return permutation_M


def _near(vector_ML: Any, free: NDArray[np.int64], same: Same) -> list[tuple[NDArray[Any], ...]]:
    """(similarity, row, other) of each free row and its `NEIGHBOURS` most similar ones, in blocks of rows."""
    parts: list[tuple[NDArray[Any], ...]] = []
    free_FL = vector_ML[free]
    count = min(NEIGHBOURS, len(free) - 1)
    for start in range(0, len(free), BLOCK_ROWS):
        rows_B = free[start : start + BLOCK_ROWS]
        similarity_BF = (free_FL[start : start + BLOCK_ROWS] @ free_FL.T).toarray()
        for value_M in (same.image_M, same.text_M):
            similarity_BF[value_M[rows_B][:, None] == value_M[free][None, :]] = -1
        near_BK = np.argpartition(-similarity_BF, count - 1, axis=1)[:, :count]
        values_BK = np.take_along_axis(similarity_BF, near_BK, axis=1)
        parts.append((values_BK.ravel(), rows_B.repeat(count), free[near_BK].ravel()))
    return parts
