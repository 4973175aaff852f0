"""Evidence that an unpaired caption matches an image, from the image's own captions in one vector space.

Evidence t uses frozen caption vectors, h trained ones, with the same function. All vectors are unit vectors; frozen
ones must be centred first (`centred_captions`): their common part would hide their differences.

Shapes: N images, M captions, V width, K pairs of an image and a caption, B of them at a time, n references.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.references import jackknifed_maximum, references

CHUNK_PAIRS = 1 << 14


def centred_captions(caption_MV: Tensor, mean_V: Tensor) -> Tensor:
    """Unit vectors of the captions' directions minus `mean_V`, the mean direction of the *training* captions."""
    dtype = torch.promote_types(caption_MV.dtype, torch.float32)
    centred_MV = torch.empty_like(caption_MV, dtype=dtype)
    for centred_BV, caption_BV in zip(centred_MV.split(CHUNK_PAIRS), caption_MV.split(CHUNK_PAIRS), strict=True):
        centred_BV[:] = normalize(normalize(caption_BV.to(dtype), dim=1) - mean_V.to(caption_BV.device, dtype), dim=1)
    return centred_MV


def pair_similarity(image_NV: Tensor, caption_MV: Tensor, image_K: Tensor, caption_K: Tensor) -> Tensor:
    """The cosine of each pair's image and caption, unit vectors in one space; r_K. Frozen ones: evidence s or r."""
    pairs = zip(image_K.split(CHUNK_PAIRS), caption_K.split(CHUNK_PAIRS), strict=True)
    dtype = torch.promote_types(caption_MV.dtype, torch.float32)
    return torch.cat(
        [(image_NV[image_B].to(dtype) * caption_MV[caption_B].to(dtype)).sum(1) for image_B, caption_B in pairs]
    )


def caption_agreement(caption_MV: Tensor, caption_image_M: Tensor, image_K: Tensor, caption_K: Tensor) -> Tensor:
    """Evidence t (or h): the similarity of a caption to the most similar caption of an image.

    If the image has n captions and the caption is not one of them: `((n - 1) · first + second) / n`. If it is one of
    them, the maximum over the other n - 1. See `jackknifed_maximum` for the reason. Another caption with the same words
    is a normal reference.

    Args:
        caption_MV: unit vectors.
        caption_image_M: the image of each caption.
        image_K: the image of each pair.
        caption_K: its caption, a row of `caption_MV`.

    Returns:
        t_K: cosines; NaN for an image with fewer than two captions.
    """
    t_K = _unknown(caption_MV, len(image_K))
    for pair_B, reference_Bn, own_Bn in references(caption_image_M, image_K, caption_K):
        t_K[pair_B] = jackknifed_maximum(_cosines(caption_MV[caption_K[pair_B]], caption_MV[reference_Bn]), own_Bn)
    return t_K


def picture_agreement(
    image_NV: Tensor, caption_MV: Tensor, caption_image_M: Tensor, image_K: Tensor, caption_K: Tensor
) -> Tensor:
    """Evidence x: how well the image's captions fit the picture that the caption was written for.

    The mean cosine of the caption's own image with the captions of the pair's image, without the caption itself.
    A mean, unlike a maximum, does not grow with the number of captions.

    Args:
        image_NV: unit vectors of the images in the captions' space, trained or by `fit_ridge`.
        caption_MV, caption_image_M, image_K, caption_K: as for `caption_agreement`.

    Returns:
        x_K: NaN if the image has no other caption.
    """
    x_K = _unknown(caption_MV, len(image_K))
    for pair_B, reference_Bn, own_Bn in references(caption_image_M, image_K, caption_K):
        cosine_Bn = _cosines(image_NV[caption_image_M[caption_K[pair_B]]], caption_MV[reference_Bn])
        x_K[pair_B] = cosine_Bn.masked_fill(own_Bn, 0).sum(1) / (~own_Bn).sum(1)
    return x_K


def _unknown(caption_MV: Tensor, pairs: int) -> Tensor:
    return caption_MV.new_full((pairs,), torch.nan, dtype=torch.promote_types(caption_MV.dtype, torch.float32))


def _cosines(query_BV: Tensor, reference_BnV: Tensor) -> Tensor:
    """(B, n), in float32 also for vectors in half precision."""
    dtype = torch.promote_types(reference_BnV.dtype, torch.float32)
    return (reference_BnV.to(dtype) @ query_BV.to(dtype)[:, :, None]).squeeze(2)
