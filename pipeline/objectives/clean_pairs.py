"""Which training pairs are clean, and the nearest clean pair of each image and each caption (NPC's memory bank).

Shapes: N images, M training pairs (one per caption), C clean pairs, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SETTINGS = {"n_components": 2, "max_iter": 100, "tol": 1e-2, "reg_covar": 5e-4}  # NPC's
CHUNK_ROWS = 1024


class Mixture(NamedTuple):
    """Two normal populations of losses, the lower mean first, and each pair's probability of belonging to that one."""

    clean_probability_M: Tensor
    mean: tuple[float, float]
    weight: tuple[float, float]


def clean_probability(loss_M: Tensor, seed: int) -> Mixture:
    """Fit a Gaussian mixture of two components to all pairs' losses, scaled to [0, 1].

    Args:
        loss_M: each pair's loss under the base model.
        seed: of the fit's initialisation.

    Returns:
        The posterior of the component with the lower mean, and both components' means (as losses) and weights.
    """
    from sklearn.mixture import GaussianMixture

    low, high = float(loss_M.min()), float(loss_M.max())
    if low == high:
        return Mixture(torch.ones(len(loss_M), dtype=torch.float64), (low, high), (1.0, 0.0))
    span = high - low  # reg_covar, the smallest variance, is meant for losses between 0 and 1
    scaled_M1 = ((loss_M.double() - low) / span).reshape(-1, 1).cpu().numpy()
    mixture = GaussianMixture(**SETTINGS, random_state=seed).fit(scaled_M1)
    first, second = mixture.means_.ravel().argsort()
    means = low + span * mixture.means_.ravel()
    return Mixture(
        torch.from_numpy(mixture.predict_proba(scaled_M1)[:, first]),
        (float(means[first]), float(means[second])),
        (float(mixture.weights_[first]), float(mixture.weights_[second])),
    )


def nearest_clean(
    query_QD: Tensor,
    query_image_Q: Tensor,
    clean_CD: Tensor,
    clean_image_C: Tensor,
    *,
    exclude_self: bool,
    chunk_size: int = CHUNK_ROWS,
) -> Tensor:
    """The clean pair whose image (or caption) is most similar to each query's.

    Args:
        query_QD: unit vectors of images (or of captions).
        query_image_Q: the image of each query.
        clean_CD: unit vectors of the clean pairs' images (or captions); the first of equal ones is taken.
        clean_image_C: the image of each clean pair.
        exclude_self: leave out pairs of the query's own image, unless there are no others.
        chunk_size: queries per similarity matrix.

    Returns:
        entry_Q: (Q,) rows of `clean_CD`.
    """
    entries = []
    for query_BD, image_B in zip(query_QD.split(chunk_size), query_image_Q.split(chunk_size), strict=True):
        similarity_BC = query_BD @ clean_CD.T
        if exclude_self:
            own_BC = image_B[:, None] == clean_image_C[None, :]
            similarity_BC = similarity_BC.masked_fill(own_BC, -2.0)  # below any cosine, but above -inf
        entries.append(similarity_BC.argmax(dim=1))
    return torch.cat(entries)
