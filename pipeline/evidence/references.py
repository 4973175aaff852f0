"""The captions of each image as references, and a maximum over them that does not grow with their number.

Shapes: N images, M captions, K pairs of an image and a caption, B of them at a time, n references.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_REFERENCES = 1 << 14  # per chunk, over all its pairs: 25 MB of vectors at width 384


class CaptionsByImage:
    """Captions grouped by image; an image may have any number, including none.

    Args:
        caption_image_M: each caption's image.
        images: the number of images.
    """

    def __init__(self, caption_image_M: Tensor, images: int) -> None:
        """Sort once."""
        self.order_M = caption_image_M.argsort(stable=True)
        self.count_N = torch.bincount(caption_image_M, minlength=images)
        self.first_N = self.count_N.cumsum(0) - self.count_N

    def members(self, image_I: Tensor) -> tuple[Tensor, Tensor]:
        """(caption_T, place_T): the captions of these images, and the index of each caption's image in `image_I`."""
        count_I = self.count_N[image_I]
        place_T = torch.arange(len(image_I), device=image_I.device).repeat_interleave(count_I)
        offset_T = torch.arange(len(place_T), device=image_I.device) - (count_I.cumsum(0) - count_I)[place_T]
        return self.order_M[self.first_N[image_I][place_T] + offset_T], place_T


def references(
    caption_image_M: Tensor, image_K: Tensor, caption_K: Tensor, chunk_references: int = CHUNK_REFERENCES
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The references of each pair; a chunk has pairs with equally many references, so there is no padding.

    Args:
        caption_image_M: the image of each caption.
        image_K: the image of each pair.
        caption_K: its caption, a row of `caption_image_M`.
        chunk_references: references per chunk; a single pair may have more.

    Yields:
        (pair_B, reference_Bn, own_Bn): pairs, rows of their image's captions, and True where a reference is the
        pair's caption itself. Pairs whose image has no caption are left out.
    """
    if not len(image_K):
        return
    groups = CaptionsByImage(caption_image_M, int(image_K.max()) + 1)
    count_K = groups.count_N[image_K]
    for count in count_K.unique().tolist():
        if not count:
            continue
        offset_n = torch.arange(count, device=image_K.device)
        for pair_B in (count_K == count).nonzero().squeeze(1).split(max(1, chunk_references // count)):
            reference_Bn = groups.order_M[groups.first_N[image_K[pair_B]][:, None] + offset_n]
            yield pair_B, reference_Bn, reference_Bn == caption_K[pair_B][:, None]


def jackknifed_maximum(similarity_Bn: Tensor, own_Bn: Tensor) -> Tensor:
    """The expected maximum of n similarities with one reference fewer.

    A caption's own image has n - 1 references other than the caption, another image has n, and a maximum over more
    references is larger. If no reference is the caption itself, the result is the mean over the n ways to leave one
    out: `((n - 1) · first + second) / n`. If one is, it is left out, and the result is the maximum of the others.

    Args:
        similarity_Bn: (…, n).
        own_Bn: bool, same shape; True where the reference is the caption itself.

    Returns:
        (…,), NaN for n < 2.
    """
    count = similarity_Bn.shape[-1]
    if count < 2:
        return similarity_Bn.new_full(similarity_Bn.shape[:-1], torch.nan)
    first_B, second_B = similarity_Bn.masked_fill(own_Bn, -torch.inf).topk(2, dim=-1).values.unbind(-1)
    return first_B.where(own_Bn.any(-1), ((count - 1) * first_B + second_B) / count)
