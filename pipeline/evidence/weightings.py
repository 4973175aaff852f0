"""Published ways to trust a training pair that need frozen vectors and no training: `pairs.weighting` names them.

Each is judged where the noise is known: `trust` in `evidence.json` and `metrics.json`.

Shapes: N images, M captions (one training pair each), V width of the space that images and captions share, W of image
features, k neighbours, B rows at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.evidence.captions import pair_similarity
from pipeline.evidence.trust import mixture_posterior, random_images
from pipeline.objectives.clean_pairs import clean_probability

OSA_BATCH = 256  # the published batch, within which scores are scaled
NEGCLIP_TEMPERATURE = 0.01
NEIGHBOURS, REACH, CONFIDENCE, SHARE = 30, 0.1, 5.0, 5.0  # LEMoN's k, τ1, τ2, and β = γ
CHUNK_ROWS = 1024


def weighting_trust(
    weighting: str, image_NV: Tensor, caption_MV: Tensor, caption_image_M: Tensor, frozen_NW: Tensor | None, seed: int
) -> Tensor:
    """The trust in each training pair (M,), in [0, 1], by one of `pipeline.params.BEFORE_TRAINING`.

    `clip_score`, `negclip` and `lemon` are scores, by which their authors keep or drop a pair. Here a score becomes
    the probability that it is not that of a random pair, by the mixture of `pipeline.evidence.trust`, made monotone by
    isotonic regression: a higher score never has a lower probability.

    Args:
        weighting: its name.
        image_NV: unit vectors of the training images.
        caption_MV: unit vectors of their captions, in the same space.
        caption_image_M: the image of each caption.
        frozen_NW: unit vectors of the images in a space of their own, for `gsc`.
        seed: of the random pairs, OSA's batches and GSC's mixture.

    Returns:
        t_M: float64; all 1 if fewer than two images have captions.
    """
    from sklearn.isotonic import IsotonicRegression

    if len(caption_image_M.unique()) < 2:
        return torch.ones(len(caption_image_M), dtype=torch.float64)
    if weighting == "gsc":
        assert frozen_NW is not None
        agreement_M = structure_agreement(frozen_NW, caption_MV, caption_image_M)
        return clean_probability(-agreement_M, seed).clean_probability_M
    every_M = torch.arange(len(caption_MV), device=caption_MV.device)
    given = caption_image_M, random_images(caption_image_M, len(image_NV), seed)[caption_image_M]
    own_M, random_M = (pair_similarity(image_NV, caption_MV, image_M, every_M) for image_M in given)
    if weighting.startswith("osa"):
        return osa_weights(own_M, float(random_M.mean()), monotone=weighting == "osa_monotone", seed=seed)
    if weighting == "negclip":
        image_N, caption_M = log_normalisers(image_NV, caption_MV, caption_image_M, NEGCLIP_TEMPERATURE)
        own_M, random_M = (
            score_M - NEGCLIP_TEMPERATURE / 2 * (image_N[image_M] + caption_M)
            for score_M, image_M in zip((own_M, random_M), given, strict=True)
        )
    elif weighting == "lemon":
        near = nearest_pairs(image_NV, caption_MV, caption_image_M, NEIGHBOURS)
        own_M, random_M = (-lemon_scores(image_NV, caption_MV, caption_image_M, image_M, *near) for image_M in given)
    own_M, random_M = own_M.double().cpu(), random_M.double().cpu()
    p_M = mixture_posterior(own_M[:, None], random_M[:, None])
    # of two normals with different variances, the wider one is also the likelier one in the far tail of the other
    return torch.from_numpy(IsotonicRegression().fit_transform(own_M.numpy(), p_M.numpy()))


def osa_weights(score_M: Tensor, threshold: float, *, monotone: bool, seed: int, batch: int = OSA_BATCH) -> Tensor:
    """OSA's weight of each pair from a frozen image-text score (Li et al. 2024, arXiv 2410.01944).

    `x = max(0, score - threshold) / its maximum over the batch`, `t = x² (1 - x²)`: 0 for the best pair of a batch, and
    at most 1/4, at x = 0.71. With `monotone`, `t = 4 z (1 - z)` with `z = min(x², 1/2)`: the rising half of that
    curve, scaled to 1, which it keeps.

    Departures: batches are drawn once, not with each epoch; `threshold` is the mean score of random pairs, where the
    published code encodes random pixels and random tokens.

    Args:
        score_M: cosines; their scale has no effect.
        threshold: the score of what does not match.
        monotone: see above.
        seed: of the batches.
        batch: pairs in a batch at most.

    Returns:
        t_M: in [0, 1/4], with `monotone` in [0, 1]; float64.
    """
    above_M = (score_M.double().cpu() - threshold).clamp(min=0)
    order_M = torch.randperm(len(above_M), generator=torch.Generator().manual_seed(seed))
    for rows_B in order_M.tensor_split(-(-len(above_M) // batch)):
        above_M[rows_B] /= above_M[rows_B].max().clamp(min=torch.finfo(torch.float64).tiny)
    if monotone:
        half_M = above_M.square().clamp(max=0.5)
        return 4 * half_M * (1 - half_M)
    return above_M.square() * (1 - above_M.square())


def log_normalisers(
    image_NV: Tensor, caption_MV: Tensor, caption_image_M: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """`log Σ_j e^(s/τ)` of each image over all captions, (N,), and of each caption over all pairs' images, (M,).

    `negclip`: `s - τ/2 (both sums of the pair)`, the CLIP score without the part that hubs have with everything
    (negCLIPLoss, Wang et al. 2024). The sums are over the whole split, where the authors average batches of 32 768.
    """
    count_N = torch.bincount(caption_image_M, minlength=len(image_NV))
    image_N = image_NV.new_empty(len(image_NV))
    caption_M = caption_MV.new_full((len(caption_MV),), -torch.inf)
    for rows_B in torch.arange(len(image_NV), device=image_NV.device).split(CHUNK_ROWS):
        logit_BM = image_NV[rows_B] @ caption_MV.T / temperature
        image_N[rows_B] = logit_BM.logsumexp(1)
        caption_M = caption_M.logaddexp((logit_BM + count_N[rows_B].log()[:, None]).logsumexp(0))
    return image_N, caption_M


def nearest_pairs(image_NV: Tensor, caption_MV: Tensor, caption_image_M: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Pairs: the k + 1 with the images nearest to each image, (N, k + 1), and the k *others* with the captions nearest
    to each caption, (M, k); fewer where there are not as many.
    """
    k = min(k, len(caption_MV) - 1)
    by_image = [
        (image_NV[rows_B] @ image_NV.T)[:, caption_image_M].topk(k + 1).indices
        for rows_B in torch.arange(len(image_NV), device=image_NV.device).split(CHUNK_ROWS)
    ]
    by_caption = [
        (caption_MV[rows_B] @ caption_MV.T).scatter(1, rows_B[:, None], -torch.inf).topk(k).indices
        for rows_B in torch.arange(len(caption_MV), device=caption_MV.device).split(CHUNK_ROWS)
    ]
    return torch.cat(by_image), torch.cat(by_caption)


def lemon_scores(
    image_NV: Tensor,
    caption_MV: Tensor,
    caption_image_M: Tensor,
    image_M: Tensor,
    by_image_Nk: Tensor,
    by_caption_Mk: Tensor,
) -> Tensor:
    """LEMoN's score of each caption with an image (Zhang et al. 2025); higher means more probably wrong.

    With d one minus the cosine, x and y the pair's vectors, (x_n, y_n) the k pairs with the images nearest to x and
    (x_m, y_m) those with the captions nearest to y, the pair itself left out:

        d(x, y) + β mean_n e^(-τ1 d(x, x_n)) e^(-τ2 d(x_n, y_n)) d(y, y_n)
                + γ mean_m e^(-τ1 d(y, y_m)) e^(-τ2 d(x_m, y_m)) d(x, x_m)

    The authors fit β, γ and τ on labelled pairs; here they are fixed.

    Args:
        image_NV, caption_MV, caption_image_M: see `weighting_trust`.
        image_M: the image that each caption is scored with.
        by_image_Nk, by_caption_Mk: what `nearest_pairs` returns.
    """
    every_M = torch.arange(len(caption_MV), device=image_M.device)
    own_M = 1 - pair_similarity(image_NV, caption_MV, caption_image_M, every_M)

    def far_neighbours(pair_Bk: Tensor, near_Bk: Tensor, far_Bk: Tensor) -> Tensor:
        return ((-REACH * near_Bk - CONFIDENCE * own_M[pair_Bk]).exp() * far_Bk).mean(1)

    scores = []
    for m_B in every_M.split(CHUNK_ROWS):
        x_BV, y_BV = image_NV[image_M[m_B]], caption_MV[m_B]
        by_image_Bk = by_image_Nk[image_M[m_B]]
        last_Bk = (by_image_Bk == m_B[:, None]).int().argsort(dim=1, stable=True)  # the pair itself, or the farthest
        n_Bk, m_Bk = by_image_Bk.gather(1, last_Bk)[:, :-1], by_caption_Mk[m_B]
        (xn_Bk, yn_Bk), (xm_Bk, ym_Bk) = (
            (_distances(image_NV[caption_image_M[pair_Bk]], x_BV), _distances(caption_MV[pair_Bk], y_BV))
            for pair_Bk in (n_Bk, m_Bk)
        )
        score_B = 1 - (x_BV * y_BV).sum(1)
        scores.append(score_B + SHARE * (far_neighbours(n_Bk, xn_Bk, yn_Bk) + far_neighbours(m_Bk, ym_Bk, xm_Bk)))
    return torch.cat(scores)


def _distances(neighbour_BkV: Tensor, own_BV: Tensor) -> Tensor:
    return 1 - (neighbour_BkV @ own_BV[:, :, None]).squeeze(2)


def structure_agreement(frozen_NW: Tensor, caption_MV: Tensor, caption_image_M: Tensor) -> Tensor:
    """GSC's cross-modal structure consistency of each pair (Zhao et al. 2024), over the whole split.

    The cosine of two rows: the similarities of the pair's image with all pairs' images, and of its caption with all
    captions. Both rows are products with one small matrix, `Σ_j x_j · y_j = xᵀ (Σ_j x_j y_jᵀ) y`, so no table of pairs
    is needed. The published code takes the rows of a batch, by the trained towers, weighted by the current trust.

    Args:
        frozen_NW: unit vectors of the images.
        caption_MV: unit vectors of the captions, in any space.
        caption_image_M: the image of each caption.

    Returns:
        c_M: in [-1, 1], float64.
    """
    chunks = [
        (frozen_NW[caption_image_M[rows_B]], caption_MV[rows_B])
        for rows_B in torch.arange(len(caption_MV), device=caption_MV.device).split(CHUNK_ROWS)
    ]
    image_WW = sum(x_BW.T.double() @ x_BW.double() for x_BW, _ in chunks)
    text_VV = sum(y_BV.T.double() @ y_BV.double() for _, y_BV in chunks)
    cross_WV = sum(x_BW.T.double() @ y_BV.double() for x_BW, y_BV in chunks)
    agreements = []
    for x_BW, y_BV in ((x_BW.double(), y_BV.double()) for x_BW, y_BV in chunks):
        norm_B = ((x_BW @ image_WW * x_BW).sum(1) * (y_BV @ text_VV * y_BV).sum(1)).sqrt()
        agreements.append((x_BW @ cross_WV * y_BV).sum(1) / norm_B)
    return torch.cat(agreements)
