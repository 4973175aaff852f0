"""Trust in training pairs before any training, from the image's other captions and a regression on other images.

Shapes: N images, M captions (one training pair each), W and V widths, F kinds of evidence, R random pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.evidence.captions import caption_agreement, centred_captions, pair_similarity
from pipeline.evidence.moments import mean_direction
from pipeline.evidence.normals import fit_normals
from pipeline.evidence.regression import out_of_fold_images

MOST_ROUNDS = 500
SMALLEST_CHANGE = 1e-5  # of a probability in an iteration; below it, the mixture has converged
SMALLEST_VARIANCE = 1e-3  # of standardised evidence in a component, which cannot shrink to a few equal pairs
SMALLEST_SHARE = 1e-6


def pair_trust(
    image_NW: Tensor, caption_MV: Tensor, caption_image_M: Tensor, *, folds: int = 5, seed: int = 1
) -> Tensor:
    """The probability that each training pair is right.

    Two kinds of evidence: sibling agreement (the caption's largest cosine with the image's *other* captions), and
    its cosine with the image's projection by a ridge regression without that image. They are compared with those
    of random pairs: each image's captions with one other image (`mixture_posterior`). It needs no labels and no
    training, and is deterministic. For an image's only caption, without siblings, only the regression is used.

    Args:
        image_NW: frozen features of the training images.
        caption_MV: frozen vectors of their captions, of any length.
        caption_image_M: the row of each caption's image.
        folds: groups of images of the regression.
        seed: of the folds and of the random pairs.

    Returns:
        p_M: in [0, 1], float64; all 1 if the evidence is constant, or if fewer than two images have captions.
    """
    if not len(caption_MV):  # nothing to fit
        return torch.ones(0, dtype=torch.float64, device=caption_MV.device)
    every_M = torch.arange(len(caption_MV), device=caption_image_M.device)
    text_MV = centred_captions(caption_MV, mean_direction(caption_MV))
    image_NV = out_of_fold_images(image_NW, caption_MV, caption_image_M, folds=folds, seed=seed)

    def evidence(image_M: Tensor) -> Tensor:
        siblings_M = caption_agreement(text_MV, caption_image_M, image_M, every_M)
        regression_M = pair_similarity(image_NV, text_MV, image_M, every_M)
        return torch.stack([siblings_M, regression_M], dim=1).double()

    return trust_by(evidence, caption_image_M, len(image_NW), seed)


def trust_by(evidence: Callable[[Tensor], Tensor], caption_image_M: Tensor, images: int, seed: int) -> Tensor:
    """The trust in each pair (M,) from its evidence compared with that of random pairs, see `mixture_posterior`.

    Args:
        evidence: the evidence (M, F) about each caption and the image that it is given, (M,).
        caption_image_M: the image of each caption's pair.
        images: N.
        seed: of the random pairs.

    Returns:
        p_M: in [0, 1], float64; all 1 if fewer than two images have captions.
    """
    if len(caption_image_M.unique()) < 2:
        return torch.ones(len(caption_image_M), dtype=torch.float64, device=caption_image_M.device)
    other_N = random_images(caption_image_M, images, seed)
    return mixture_posterior(evidence(caption_image_M), evidence(other_N[caption_image_M]))


def random_images(caption_image_M: Tensor, images: int, seed: int) -> Tensor:
    """Another image (N,) for each image with a caption, drawn in a circle, so that each is drawn once."""
    with_caption_I = caption_image_M.unique()
    order_I = with_caption_I[torch.randperm(len(with_caption_I), generator=torch.Generator().manual_seed(seed))]
    return caption_image_M.new_zeros(images).index_put((order_I,), order_I.roll(1))


def mixture_posterior(evidence_MF: Tensor, random_RF: Tensor) -> Tensor:
    """The posterior of the better component in a naive-Bayes mixture of normals whose worse component is known.

    Wrong pairs have the evidence of random pairs, so the worse component is fitted to random pairs, once. The better
    one and its share are fitted by expectation maximisation (Dempster et al. 1977), started from 0.5 for every pair,
    so there is no randomness. If both components were free, they would split a dataset without wrong pairs into halves.

    Args:
        evidence_MF: larger means more probably right; NaN means no evidence, and is left out.
        random_RF: same kinds, of random pairs.

    Returns:
        p_M: in [0, 1], float64. Constant kinds of evidence are left out; if no kind is left, every pair has 1. A pair
        without evidence has the share of the better component.
    """
    all_pairs = fit_normals(evidence_MF, evidence_MF.new_ones(len(evidence_MF)), 0.0)
    spread_F = all_pairs.variance_F.sqrt()
    used_F = spread_F > 1e-6 * (1 + all_pairs.mean_F.abs())  # False for a kind that no pair has: NaN
    if not used_F.any():
        return evidence_MF.new_ones(len(evidence_MF))
    evidence_MF, random_RF = (
        (part[:, used_F] - all_pairs.mean_F[used_F]) / spread_F[used_F] for part in (evidence_MF, random_RF)
    )
    worse = fit_normals(random_RF, random_RF.new_ones(len(random_RF)), SMALLEST_VARIANCE)
    worse_MF = worse.log_densities(evidence_MF)
    p_M = torch.full_like(worse_MF[:, 0], 0.5)
    for _ in range(MOST_ROUNDS):
        better = fit_normals(evidence_MF, p_M, SMALLEST_VARIANCE)
        share = p_M.mean().clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
        previous_M, p_M = p_M, torch.sigmoid((better.log_densities(evidence_MF) - worse_MF).nansum(1) + share.logit())
        if float((p_M - previous_M).abs().max()) < SMALLEST_CHANGE:
            break
    return p_M
