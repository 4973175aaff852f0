"""Where the right answer stands among all candidates, in both directions, without the whole similarity matrix.

Shapes: N images, M captions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ROWS = 1024


def retrieval_ranks(
    image_ND: Tensor, text_MD: Tensor, caption_image_M: Tensor, chunk_size: int = CHUNK_ROWS
) -> tuple[Tensor, Tensor]:
    """Rank of the best own caption of every image, and of the own image of every caption, from 0.

    Image→text: how many captions of *other* images are at least as similar as the best own caption. Text→image: how
    many other images are at least as similar as the own one. Ties count against the model, so that a collapsed model
    ranks last and not first.

    Args:
        image_ND: unit vectors.
        text_MD: unit vectors.
        caption_image_M: the row of the image that each caption was written for; any number a image, at least one.
        chunk_size: rows of the similarity matrix that are held at a time.

    Returns:
        (i2t_N, t2i_M), int64.

    Raises:
        ValueError: when an index is out of range or an image has no caption.
    """
    caption_image_M = caption_image_M.to(image_ND.device)
    count = len(image_ND)
    if len(caption_image_M) != len(text_MD):
        raise ValueError(f"{len(text_MD)} captions but {len(caption_image_M)} entries in caption_image_M")
    if len(caption_image_M) and not (int(caption_image_M.min()) >= 0 and int(caption_image_M.max()) < count):
        raise ValueError(f"caption_image_M names images outside of 0 … {count - 1}")
    without = torch.bincount(caption_image_M, minlength=count) == 0
    if without.any():
        raise ValueError(f"image {int(without.nonzero()[0])} has no caption: it has no rank")
    i2t = [
        _image_to_text(image_ND[start : start + chunk_size], text_MD, caption_image_M, start)
        for start in range(0, count, chunk_size)
    ]
    t2i = [
        _text_to_image(text_MD[start : start + chunk_size], image_ND, caption_image_M[start : start + chunk_size])
        for start in range(0, len(text_MD), chunk_size)
    ]
    return torch.cat(i2t), torch.cat(t2i)


def _image_to_text(image_BD: Tensor, text_MD: Tensor, caption_image_M: Tensor, start: int) -> Tensor:
    similarity_BM = _similarity(image_BD, text_MD)
    own_BM = caption_image_M[None, :] == torch.arange(start, start + len(image_BD), device=image_BD.device)[:, None]
    best_B1 = similarity_BM.where(own_BM, -torch.inf).amax(dim=1, keepdim=True)
    return ((similarity_BM >= best_B1) & ~own_BM).sum(dim=1)


def _text_to_image(text_BD: Tensor, image_ND: Tensor, own_B: Tensor) -> Tensor:
    similarity_BN = _similarity(text_BD, image_ND)
    # the own value out of the same product: recomputed, it could differ in the last bit from an equal one beside it
    own_similarity_B1 = similarity_BN.gather(1, own_B[:, None])
    return (similarity_BN >= own_similarity_B1).sum(dim=1) - 1


def _similarity(query_BD: Tensor, item_ID: Tensor) -> Tensor:
    """All products; equal items give equal ones, to the last bit.

    A single row would be multiplied by another kernel (matrix by vector), whose order of summation depends on an
    item's place: a copy of the right answer could then fall below it.
    """
    if len(query_BD) == 1:
        return (query_BD.repeat(2, 1) @ item_ID.T)[:1]
    return query_BD @ item_ID.T
