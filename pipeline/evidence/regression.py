"""Ridge regression of caption vectors on image features: the similarity of image and caption before any training.

Shapes: N images, M captions (one pair each), W width of the image features, V of the caption vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.evidence.alignment import Alignment
from pipeline.evidence.moments import CHUNK_ROWS, Frame, Sums, checked_weights, fit_frame, pair_sums
from pipeline.evidence.references import CaptionsByImage

RIDGE = 1.0  # added to the variance of each standardised feature, which is about 1
"""On Flickr8k's validation split 0.3 to 1 separate own captions from others equally well, 3 less well."""


def fit_ridge(image_NW: Tensor, caption_MV: Tensor, caption_image_M: Tensor) -> Alignment:
    """Map standardised image features to the vectors of their captions: `(Cxx + RIDGE · I)^-1 Cxt`.

    Args:
        image_NW: features of the training images.
        caption_MV: frozen caption vectors; t is the unit vector, centred by their mean and normalised again.
        caption_image_M: the row of each caption's image.

    Returns:
        An alignment whose space is that of the centred captions; the cosine in it is evidence r.

    Raises:
        InputError: when there is no pair.
    """
    weight_M = checked_weights(caption_image_M, None)
    frame = fit_frame(image_NW, caption_MV, caption_image_M, weight_M)
    every_N = torch.arange(len(image_NW), device=image_NW.device)
    captions = CaptionsByImage(caption_image_M, len(image_NW))
    sums = pair_sums(image_NW, caption_MV, captions, weight_M, frame, image_I=every_N, unit=True)
    return _solved(frame, sums)


def out_of_fold_images(
    image_NW: Tensor, caption_MV: Tensor, caption_image_M: Tensor, *, folds: int, seed: int
) -> Tensor:
    """Each training image projected by a `fit_ridge` without that image: for evidence r of training pairs.

    Means and standard deviations are those of all pairs: an image's own share in them is only 1/N.

    Args:
        image_NW, caption_MV, caption_image_M: as for `fit_ridge`.
        folds: groups of images; at most as many as there are images with a caption.
        seed: of the draw of the folds.

    Returns:
        image_NV: unit vectors in the space of the centred captions; NaN if fewer than two images have captions, and for
        an image without any.
    """
    weight_M = checked_weights(caption_image_M, None)
    frame = fit_frame(image_NW, caption_MV, caption_image_M, weight_M)
    captions = CaptionsByImage(caption_image_M, len(image_NW))
    image_I = captions.count_N.nonzero().squeeze(1)
    image_I = image_I[torch.randperm(len(image_I), generator=torch.Generator().manual_seed(seed)).to(image_I.device)]
    dtype = torch.promote_types(caption_MV.dtype, torch.float32)
    made_NV = image_NW.new_full((len(image_NW), caption_MV.shape[1]), torch.nan, dtype=dtype)
    if len(image_I) < 2:
        return made_NV
    parts = image_I.tensor_split(min(folds, len(image_I)))
    sums = [pair_sums(image_NW, caption_MV, captions, weight_M, frame, image_I=part, unit=True) for part in parts]
    total = Sums(*(torch.stack(part).sum(0) for part in zip(*sums, strict=True)))
    for part, left_out in zip(parts, sums, strict=True):
        model = _solved(frame, total.minus(left_out))
        for image_B in part.split(CHUNK_ROWS):
            made_NV[image_B] = model.image(image_NW[image_B].double()).to(made_NV)
    return made_NV


def _solved(frame: Frame, sums: Sums) -> Alignment:
    image_WW = sums.image_WW / sums.weight
    penalty_WW = RIDGE * torch.eye(len(image_WW), dtype=image_WW.dtype, device=image_WW.device)
    return Alignment(frame, torch.linalg.solve(image_WW + penalty_WW, sums.cross_WV / sums.weight).contiguous())
