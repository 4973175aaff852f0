"""Standardised image features, centred caption vectors, and their sums over pairs, for the closed-form fits.

Sums are computed in float64, over a chunk of images at a time.

Shapes: N images, M captions (one pair each), W width of the image features, V of the caption vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.errors import InputError
from pipeline.evidence.references import CaptionsByImage

CHUNK_ROWS = 2048
SMALLEST_STD = 1e-3  # added to the standard deviation: an almost constant feature stays small


class Frame(NamedTuple):
    """The standardisation: weighted means of features and caption vectors, and the features' standard deviation."""

    image_mean_W: Tensor
    image_scale_W: Tensor
    text_mean_V: Tensor

    def image(self, image_NW: Tensor) -> Tensor:
        """Standardised features (N, W)."""
        return (image_NW - self.image_mean_W.to(image_NW)) / self.image_scale_W.to(image_NW)

    def text(self, caption_MV: Tensor) -> Tensor:
        """Unit caption vectors (M, V) minus their mean; not of unit length."""
        return normalize(caption_MV, dim=1) - self.text_mean_V.to(caption_MV)


class Sums(NamedTuple):
    """Sums over pairs of x xᵀ (W, W), x yᵀ (W, V), and of the weights."""

    image_WW: Tensor
    cross_WV: Tensor
    weight: Tensor

    def minus(self, other: Sums) -> Sums:
        """The sums over the pairs that are not in `other`."""
        return Sums(*(all_pairs - left_out for all_pairs, left_out in zip(self, other, strict=True)))


def checked_weights(caption_image_M: Tensor, weight_M: Tensor | None) -> Tensor:
    """The weight of each pair in float64; all 1 for None.

    Raises:
        InputError: when a weight is negative or not finite, or none is above 0.
    """
    if weight_M is None:
        weight_M = torch.ones(len(caption_image_M), device=caption_image_M.device)
    if not bool((weight_M.isfinite() & (weight_M >= 0)).all()) or not bool((weight_M > 0).any()):
        raise InputError("weights of pairs: expected finite numbers from 0, at least one above 0")
    return weight_M.double()


def fit_frame(image_NW: Tensor, caption_MV: Tensor, caption_image_M: Tensor, weight_M: Tensor) -> Frame:
    """Mean and standard deviation (+1e-3) of the features, and the mean unit caption vector, over weighted pairs."""
    share_N = torch.bincount(caption_image_M, weights=weight_M, minlength=len(image_NW)) / weight_M.sum()
    chunks = range(0, len(image_NW), CHUNK_ROWS)
    image_mean_W = image_NW.new_zeros(image_NW.shape[1], dtype=torch.float64)
    for start in chunks:
        image_mean_W += share_N[start : start + CHUNK_ROWS] @ image_NW[start : start + CHUNK_ROWS].double()
    variance_W = torch.zeros_like(image_mean_W)
    for start in chunks:
        centred_BW = image_NW[start : start + CHUNK_ROWS].double() - image_mean_W
        variance_W += share_N[start : start + CHUNK_ROWS] @ centred_BW.square()
    return Frame(image_mean_W, variance_W.sqrt() + SMALLEST_STD, mean_direction(caption_MV, weight_M))


def mean_direction(caption_MV: Tensor, weight_M: Tensor | None = None) -> Tensor:
    """The (weighted) mean of the captions' unit vectors (V,), float64, for centring frozen captions."""
    weight_M = caption_MV.new_ones(len(caption_MV), dtype=torch.float64) if weight_M is None else weight_M
    total_V = caption_MV.new_zeros(caption_MV.shape[1], dtype=torch.float64)
    for caption_BV, weight_B in zip(caption_MV.split(CHUNK_ROWS), weight_M.split(CHUNK_ROWS), strict=True):
        total_V += weight_B @ normalize(caption_BV.double(), dim=1)
    return total_V / weight_M.sum()


def pair_sums(
    image_NW: Tensor,
    caption_MV: Tensor,
    captions: CaptionsByImage,
    weight_M: Tensor,
    frame: Frame,
    *,
    image_I: Tensor,
    unit: bool,
) -> Sums:
    """Sums over the pairs of the images `image_I`: x standardised, y centred (with `unit`, also of unit length)."""
    image_WW = image_NW.new_zeros(image_NW.shape[1], image_NW.shape[1], dtype=torch.float64)
    cross_WV = image_NW.new_zeros(image_NW.shape[1], caption_MV.shape[1], dtype=torch.float64)
    weight = image_WW.new_zeros(())
    for image_B in image_I.split(CHUNK_ROWS):
        caption_T, place_T = captions.members(image_B)
        weight_T = weight_M[caption_T]
        text_TV = frame.text(caption_MV[caption_T].double())
        text_TV = weight_T[:, None] * (normalize(text_TV, dim=1) if unit else text_TV)
        weight_B = weight_T.new_zeros(len(image_B)).index_add(0, place_T, weight_T)
        text_BV = text_TV.new_zeros(len(image_B), text_TV.shape[1]).index_add(0, place_T, text_TV)
        image_BW = frame.image(image_NW[image_B].double())
        image_WW += image_BW.T @ (weight_B[:, None] * image_BW)
        cross_WV += image_BW.T @ text_BV
        weight += weight_T.sum()
    return Sums(image_WW, cross_WV, weight)
