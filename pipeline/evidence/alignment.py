"""Closed-form alignments of two frozen towers: canonical correlation, and ridge regression into caption space.

Both take seconds and use only the training pairs.

Shapes: N images, M captions (one pair each), W width of the image features, V of the caption vectors, D of the
aligned space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.moments import CHUNK_ROWS, Frame, checked_weights, fit_frame, pair_sums
from pipeline.evidence.references import CaptionsByImage

SMALLEST_EIGENVALUE = 1e-12  # for towers with constant output, projections are then 0, not infinite


@dataclass(frozen=True)
class Alignment:
    """Linear maps of standardised image features and of centred caption vectors into one space.

    `text_projection_VD` is None if that space is the captions' own (`fit_ridge`). Tensors are float64 and contiguous:
    after reading from a file they have the same memory layout, so products round in the same way.
    """

    frame: Frame
    image_projection_WD: Tensor
    text_projection_VD: Tensor | None = None

    def image(self, image_NW: Tensor) -> Tensor:
        """Unit vectors (N, D), in the features' own precision; zero for a feature vector at the mean."""
        image_NW = _at_least_single(image_NW)
        return normalize(self.frame.image(image_NW) @ self.image_projection_WD.to(image_NW), dim=1)

    def text(self, caption_MV: Tensor) -> Tensor:
        """Unit vectors (M, D); see `image`."""
        caption_MV = _at_least_single(caption_MV)
        centred_MV = self.frame.text(caption_MV)
        if self.text_projection_VD is not None:
            centred_MV = centred_MV @ self.text_projection_VD.to(caption_MV)
        return normalize(centred_MV, dim=1)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, for safetensors."""
        tensors = {**self.frame._asdict(), "image_projection_WD": self.image_projection_WD}
        if self.text_projection_VD is not None:
            tensors["text_projection_VD"] = self.text_projection_VD
        return tensors

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> Alignment:
        """The alignment of a `state_dict`."""
        frame = Frame(*(tensors[name] for name in Frame._fields))
        return cls(frame, tensors["image_projection_WD"], tensors.get("text_projection_VD"))


def fit_cca(
    image_NW: Tensor,
    caption_MV: Tensor,
    caption_image_M: Tensor,
    *,
    image_ridge: float = 1.0,
    text_ridge: float = 0.5,
    weight_M: Tensor | None = None,
) -> Alignment:
    """Regularised canonical correlation analysis (Hotelling 1936; ridges as Vinod 1976), canonical axes scaled.

    With x standardised features, y unit caption vectors minus their mean, and C their means over pairs of x xᵀ, y yᵀ
    and x yᵀ: `A = (Cxx + image_ridge · mean(diag Cxx) · I)^(-1/2)`, B the same of Cyy, `U S Vᵀ = svd(A Cxy B)`; images
    are projected by `A U S`, captions by `B V`.

    Args:
        image_NW: features of the training images.
        caption_MV: frozen caption vectors of any length; only their direction is used.
        caption_image_M: the row of each caption's image; an image may have any number of captions.
        image_ridge: share of the mean variance that is added to each image feature's variance.
        text_ridge: same for caption vectors.
        weight_M: each pair's weight in every mean, as if the pair occurred that often; None: 1.

    Returns:
        An alignment of width min(W, V).

    Raises:
        InputError: when a weight is negative or not finite, or none is above 0.
    """
    weight_M = checked_weights(caption_image_M, weight_M)
    frame = fit_frame(image_NW, caption_MV, caption_image_M, weight_M)
    captions = CaptionsByImage(caption_image_M, len(image_NW))
    every_N = torch.arange(len(image_NW), device=image_NW.device)
    sums = pair_sums(image_NW, caption_MV, captions, weight_M, frame, image_I=every_N, unit=False)
    text_VV = sums.cross_WV.new_zeros(caption_MV.shape[1], caption_MV.shape[1])
    for caption_BV, weight_B in zip(caption_MV.split(CHUNK_ROWS), weight_M.split(CHUNK_ROWS), strict=True):
        text_BV = frame.text(caption_BV.double())
        text_VV += text_BV.T @ (weight_B[:, None] * text_BV)
    image_whitening_WW = _inverse_root(sums.image_WW / sums.weight, image_ridge)
    text_whitening_VV = _inverse_root(text_VV / sums.weight, text_ridge)
    u_WD, correlation_D, v_DV = torch.linalg.svd(
        image_whitening_WW @ (sums.cross_WV / sums.weight) @ text_whitening_VV, full_matrices=False
    )
    return Alignment(frame, image_whitening_WW @ u_WD * correlation_D, text_whitening_VV @ v_DV.T)


def _inverse_root(covariance_WW: Tensor, ridge: float) -> Tensor:
    """`(C + ridge · mean(diag C) · I)^(-1/2)`."""
    eigenvalue_W, eigenvector_WW = torch.linalg.eigh(covariance_WW)
    eigenvalue_W = (eigenvalue_W + ridge * covariance_WW.diagonal().mean()).clamp(min=SMALLEST_EIGENVALUE)
    return (eigenvector_WW * eigenvalue_W.rsqrt()) @ eigenvector_WW.T


def _at_least_single(feature_NW: Tensor) -> Tensor:
    return feature_NW.to(torch.promote_types(feature_NW.dtype, torch.float32))
