"""What the report shows of retrieval: queries with their best results.

Shapes: N images, M captions, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.splits.format import read_split
from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Truth
from pipeline.errors import InputError
from pipeline.paths import EMBEDDINGS
from pipeline.report.labels import Labelled, Mark
from pipeline.retrieval.ranks import retrieval_ranks

CHUNK_ROWS = 128  # of the similarity matrix
RESULTS = 5  # shown per query
READABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # torch cannot multiply float8

Direction = Literal["i2t", "t2i"]


@dataclass(frozen=True, kw_only=True)
class Embedded(Labelled):
    """A split with the unit vectors of its images and captions, (N, D) and (M, D)."""

    image_ND: Tensor
    text_MD: Tensor

    @cached_property
    def ranks(self) -> tuple[Tensor, Tensor]:
        """(i2t_N, t2i_M), from 0; computed once for all parts of the page."""
        return retrieval_ranks(self.image_ND, self.text_MD, self.caption_image_M)


@dataclass(frozen=True)
class Result:
    """One result of a query: `row` of the captions (i2t) or of the images (t2i)."""

    row: int
    similarity: float
    mark: Mark


@dataclass(frozen=True)
class Query:
    """An image (i2t) or a caption (t2i) by its row, with its best results and the rank of its best own one."""

    direction: Direction
    row: int
    own_place: int
    """From 1; ties count against the model, as in the recalls."""
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Group:
    """Queries of one kind: `found` of `asked` queries per direction are of this kind; a few are shown."""

    name: Literal["successes", "failures", "right"]
    found: dict[Direction, int]
    asked: dict[Direction, int]
    queries: tuple[Query, ...]


def read_embedded(
    split: Path, truth: Truth | None, vectors: Path = EMBEDDINGS, judged: Judged | None = None
) -> tuple[Embedded, str]:
    """A split with the vectors from stage `evaluate`, and the key of that evaluation.

    Raises:
        InputError: when the vectors are missing, unreadable or of another split.
    """
    from safetensors import SafetensorError, safe_open

    content = read_split(split)
    if not vectors.exists():
        raise InputError(f"{vectors}: not found; `dvc repro evaluate` makes it")
    try:
        with safe_open(vectors, "pt") as opened:
            image_ND, text_MD = opened.get_tensor("image_ND"), opened.get_tensor("text_MD")
            key = opened.metadata()["key"]
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"key {key[:60]!r}")
        if not image_ND.ndim == text_MD.ndim == 2 or image_ND.shape[1] != text_MD.shape[1]:
            raise ValueError(f"shapes {tuple(image_ND.shape)} and {tuple(text_MD.shape)}")
        if not image_ND.dtype == text_MD.dtype or image_ND.dtype not in READABLE:
            raise ValueError(f"types {image_ND.dtype} and {text_MD.dtype}")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{vectors}: not readable ({error}); run `dvc repro evaluate`") from None
    if (len(image_ND), len(text_MD)) != (len(content.images), len(content.captions)):
        raise InputError(
            f"{vectors}: holds {len(image_ND)} images and {len(text_MD)} captions, {split} "
            f"{len(content.images)} and {len(content.captions)}; run `dvc repro evaluate`"
        )
    return Embedded(content, truth, judged, image_ND=image_ND, text_MD=text_MD), key


def retrieval_groups(embedded: Embedded, count: int) -> list[Group]:
    """Successes (an own item ranks first), failures, and failures whose result is true according to the truth.

    Args:
        embedded: the encoded split.
        count: queries per group and direction, evenly spaced over the split, so that they are typical.
    """
    kinds = _query_kinds(embedded)
    names: list[Literal["successes", "failures", "right"]] = ["successes", "failures"]
    if embedded.truth is not None:
        names.append("right")
    groups = []
    for name in names:
        rows = {direction: kinds[direction][name] for direction in kinds}
        queries = [
            query
            for direction, places in rows.items()
            for query in _queries(embedded, direction, _spaced(places, count), kinds[direction]["places"])
        ]
        found = {direction: len(places) for direction, places in rows.items()}
        asked = {direction: len(kinds[direction]["places"]) for direction in kinds}
        groups.append(Group(name, found, asked, tuple(queries)))
    return groups


def _query_kinds(embedded: Embedded) -> dict[Direction, dict[str, list[int]]]:
    """Rows of each kind of query, and the ranks `places` (from 0) of all, for both directions."""
    i2t_N, t2i_M = embedded.ranks
    own_rows = torch.arange(len(embedded.image_ND))
    first_N = _first_other(embedded.image_ND, embedded.text_MD, own_rows, embedded.caption_image_M)
    first_M = _first_other(embedded.text_MD, embedded.image_ND, embedded.caption_image_M, own_rows)
    kinds: dict[Direction, dict[str, list[int]]] = {}
    directions: list[tuple[Direction, Tensor, Tensor]] = [("i2t", i2t_N, first_N), ("t2i", t2i_M, first_M)]
    for direction, ranks, first in directions:
        places, best = ranks.tolist(), first.tolist()
        successes = [row for row, place in enumerate(places) if place == 0]
        missed = [row for row, place in enumerate(places) if place > 0]
        right = {row for row in missed if embedded.mark(*_pair(direction, row, best[row])) == "true"}
        kinds[direction] = {
            "places": places,
            "successes": successes,
            "failures": [row for row in missed if row not in right],
            "right": sorted(right),
        }
    return kinds


def _first_other(query_QD: Tensor, item_ID: Tensor, query_image_Q: Tensor, item_image_I: Tensor) -> Tensor:
    """Each query's most similar item that is not its own, (Q,): the first result of a failure."""
    first = []
    for query_BD, image_B in zip(query_QD.split(CHUNK_ROWS), query_image_Q.split(CHUNK_ROWS), strict=True):
        own_BI = image_B[:, None] == item_image_I[None, :]
        first.append((query_BD @ item_ID.T).masked_fill(own_BI, -torch.inf).argmax(dim=1))
    return torch.cat(first)


def _queries(embedded: Embedded, direction: Direction, rows: Sequence[int], places: list[int]) -> Iterator[Query]:
    sides = (embedded.image_ND, embedded.text_MD)
    query_QD, item_ID = sides if direction == "i2t" else sides[::-1]
    for row in rows:
        # two rows: the kernel for a single row gives equal items products that differ in the last bit
        similarity_I = (query_QD[[row, row]] @ item_ID.T)[0]
        # ties count against the model, as in the ranks: own items come after equal others
        order_I = _is_own(embedded, direction, row, len(item_ID)).int().argsort(stable=True)
        best = order_I[similarity_I[order_I].argsort(descending=True, stable=True)][:RESULTS]
        results = [
            Result(item, similarity_I[item].item(), embedded.mark(*_pair(direction, row, item)))
            for item in best.tolist()
        ]
        yield Query(direction, row, places[row] + 1, tuple(results))


def _is_own(embedded: Embedded, direction: Direction, row: int, items: int) -> Tensor:
    """Whether each item is a query's own."""
    if direction == "i2t":
        return embedded.caption_image_M == row
    return torch.arange(items) == embedded.caption_image_M[row]


def _pair(direction: Direction, query: int, item: int) -> tuple[int, int]:
    """(image, caption)."""
    return (query, item) if direction == "i2t" else (item, query)


def _spaced(rows: Sequence[int], count: int) -> list[int]:
    """At most `count` of the rows, evenly spaced."""
    shown = min(count, len(rows))
    return [rows[(2 * number + 1) * len(rows) // (2 * shown)] for number in range(shown)]
