"""Ranks of the right answers among all candidates, in both directions, without the whole similarity matrix.

The matrix is computed in tiles. First the tiles on the diagonal, which hold the right answers: their similarities are
the thresholds for counting. Up to `KEPT_BYTES` of them are kept, the others are computed again.

Shapes: N images, M captions, D width; R images and T captions in a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.errors import InputError

SMALLEST_SIDE = 16
KEPT_BYTES = 1 << 27
TILE_ENTRIES = {"cpu": 1 << 18, "cuda": 1 << 26}  # fits a core's cache; fills a GPU


def retrieval_ranks(
    image_ND: Tensor, text_MD: Tensor, caption_image_M: Tensor, chunk_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rank (from 0) of the best own caption of every image, and of the own image of every caption.

    Image→text: the number of captions of *other* images that are at least as similar as the best own caption.
    Text→image: the number of other images that are at least as similar as the own one. Ties count against the model,
    so a collapsed model ranks last, not first.

    Args:
        image_ND: unit vectors.
        text_MD: unit vectors.
        caption_image_M: the row of each caption's own image; an image has at least one caption.
        chunk_size: images per tile of the similarity matrix; the tile has as many captions as these have on average.
            None: by the device.

    Returns:
        (i2t_N, t2i_M), int64.

    Raises:
        ValueError: when an index is out of range or an image has no caption.
        InputError: when a vector is not finite: no comparison with NaN is true, so its rank would be the first.
    """
    caption_image_M = caption_image_M.to(image_ND.device)
    _check(len(image_ND), len(text_MD), caption_image_M)
    _check_finite(image_ND, "images")
    _check_finite(text_MD, "captions")
    if not len(image_ND):
        return caption_image_M.new_zeros(0), caption_image_M.new_zeros(0)
    order_M = caption_image_M.argsort(stable=True)  # an image's captions together: right answers near the diagonal
    own_image_M = caption_image_M[order_M]
    captions_each = max(1, round(len(text_MD) / len(image_ND)))
    entries = TILE_ENTRIES.get(image_ND.device.type, TILE_ENTRIES["cpu"])
    size = chunk_size or max(1, math.isqrt(entries // captions_each))
    rows = list(_places(len(image_ND), size))
    columns = list(_places(len(text_MD), size * captions_each))

    # allocated once: new memory from the system costs as much time as the counting
    shape = rows[0][0].stop, columns[0][0].stop
    made_RT = image_ND.new_empty([max(side, SMALLEST_SIDE) for side in shape])
    beats_RT = torch.empty(shape, device=image_ND.device)  # float: sums over bool are several times slower
    kept: dict[tuple[int, int], Tensor] = {}
    own_M = image_ND.new_empty(len(text_MD))
    for column, new_column in columns:
        text_TD, own_image_T = text_MD[order_M[column]], own_image_M[column]
        first, last = own_image_M[new_column.start].item(), own_image_M[new_column.stop - 1].item()
        for row, new_row in rows:
            if new_row.start <= last and first < new_row.stop:
                keep = (len(kept) + 1) * made_RT.nbytes <= KEPT_BYTES
                similarity_RT = _similarity(image_ND[row], text_TD, torch.empty_like(made_RT) if keep else made_RT)
                if keep:
                    kept[row.start, column.start] = similarity_RT
                place_T = (own_image_T - row.start).clamp(0, row.stop - row.start - 1)
                found_T = similarity_RT.gather(0, place_T[None, :]).squeeze(0)
                here_T = (own_image_T >= new_row.start) & (own_image_T < new_row.stop)
                fresh = slice(new_column.start - column.start, None)
                own_M[new_column] = torch.where(here_T, found_T, own_M[column])[fresh]

    best_N = own_M.new_full((len(image_ND),), -torch.inf).scatter_reduce(0, own_image_M, own_M, "amax")
    # subtract the right answer itself, which the counts below include
    i2t_N = -torch.bincount(own_image_M[own_M >= best_N[own_image_M]], minlength=len(image_ND))
    t2i_M = torch.full_like(order_M, -1)
    for column, new_column in columns:
        text_TD = text_MD[order_M[column]]
        for row, new_row in rows:
            new = (slice(new_row.start - row.start, None), slice(new_column.start - column.start, None))
            found_RT = kept.pop((row.start, column.start), None)
            new_RT = (_similarity(image_ND[row], text_TD, made_RT) if found_RT is None else found_RT)[new]
            torch.ge(new_RT, best_N[new_row, None], out=beats_RT[new])
            i2t_N[new_row] += beats_RT[new].sum(dim=1).long()
            torch.ge(new_RT, own_M[None, new_column], out=beats_RT[new])
            t2i_M[new_column] += beats_RT[new].sum(dim=0).long()
    return i2t_N, torch.empty_like(t2i_M).index_copy_(0, order_M, t2i_M)


def _check(images: int, captions: int, caption_image_M: Tensor) -> None:
    if len(caption_image_M) != captions:
        raise ValueError(f"{captions} captions but {len(caption_image_M)} entries in caption_image_M")
    if captions and not (int(caption_image_M.min()) >= 0 and int(caption_image_M.max()) < images):
        raise ValueError(f"caption_image_M names images outside of 0 … {images - 1}")
    without = torch.bincount(caption_image_M, minlength=images) == 0
    if without.any():
        raise ValueError(f"image {int(without.nonzero()[0])} has no caption: it has no rank")


def _check_finite(feature_RD: Tensor, kind: str) -> None:
    wrong = int((~feature_RD.sum(dim=1).isfinite()).sum())  # a sum keeps NaN and infinity, and needs no copy
    if wrong:
        raise InputError(
            f"{wrong} of {len(feature_RD)} {kind} have a vector that is not finite, and no rank: the weights or the "
            "inputs of the model are not finite, or too large"
        )


def _places(count: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of equal length that cover `count` items, each with its part that no earlier slice covers.

    All tiles have one shape, so that the same kernel multiplies them: another kernel sums in another order, and a copy
    of the right answer could differ from it in the last bit.
    """
    size = min(size, count)
    for start in range(0, count, size):
        stop = min(start + size, count)
        yield slice(stop - size, stop), slice(start, stop)


def _similarity(image_RD: Tensor, text_TD: Tensor, out_RT: Tensor) -> Tensor:
    """All products, in `out_RT`; equal items give equal products, to the last bit.

    Kernels for small products sum in an order that depends on an item's position (seen with MKL below 16 rows or 4
    columns, most of all for a single row): a copy of the right answer could then get a lower similarity.
    """
    rows, columns = len(image_RD), len(text_TD)
    torch.mm(_at_least(image_RD, SMALLEST_SIDE), _at_least(text_TD, SMALLEST_SIDE).T, out=out_RT)
    return out_RT[:rows, :columns]


def _at_least(feature_RD: Tensor, rows: int) -> Tensor:
    """Repeat the rows until there are at least `rows`."""
    if len(feature_RD) >= rows:
        return feature_RD
    return feature_RD[torch.arange(rows, device=feature_RD.device) % len(feature_RD)]
