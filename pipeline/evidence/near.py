"""Which captions an image is compared with where there are too many pairs: those of the clusters near its own captions.

Shapes: N images, M captions, V width, L clusters, I images and J captions of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.kinds import Rows, SplitEvidence, Vectors

Block = tuple[Tensor, Callable[[], Rows]]
"""Numbers of images, and a function that returns those of the captions that they are compared with."""
CLUSTERS_PER_ROOT = 2  # L is so many times the root of M
FITTED_PER_CLUSTER = 64  # captions that the clusters are fitted to
PROBED = 24  # clusters
CHUNK_ROWS = 1 << 14


def near_blocks(evidence: SplitEvidence, pairs: int, seed: int = 1) -> list[Block]:
    """Every image once, with the captions of the `PROBED` clusters nearest to its mean caption's; `pairs` a block.

    A pair is missed where the caption is in none of these: few that match are, see docs/scale.md.
    """
    assert evidence.vectors is not None
    centre_LV = _clusters(evidence.vectors, seed)
    every_M, every_N = (
        torch.arange(count, device=centre_LV.device) for count in (len(evidence.caption_image_M), evidence.images)
    )
    captions = _by_cluster(every_M, evidence.vectors.captions, centre_LV)
    images = _by_cluster(every_N, evidence.mean_captions, centre_LV)
    made: list[Block] = []
    for image_I, centre_V in zip(images, centre_LV, strict=True):
        nearest = (centre_LV @ centre_V).topk(min(PROBED, len(centre_LV))).indices.tolist()
        near = [captions[number] for number in nearest]
        step = max(1, pairs // max(1, sum(map(len, near))))
        made += [(rows, partial(torch.cat, near)) for rows in image_I.split(step) if len(rows)]
    return made


def _clusters(vectors: Vectors, seed: int) -> Tensor:
    """Unit centres (L, V) of evenly spaced captions' vectors, by k-means (Sculley 2010)."""
    from sklearn.cluster import MiniBatchKMeans

    captions = len(vectors.caption_MV)
    count = max(1, math.isqrt(captions) * CLUSTERS_PER_ROOT)
    sampled_S = torch.linspace(0, captions - 1, min(captions, count * FITTED_PER_CLUSTER)).long()
    fitted = MiniBatchKMeans(
        min(count, len(sampled_S)), init="random", n_init=1, max_iter=10, batch_size=CHUNK_ROWS, random_state=seed
    ).fit(vectors.captions(sampled_S.to(vectors.caption_MV.device)).cpu().numpy())
    return normalize(torch.from_numpy(fitted.cluster_centers_).float().to(vectors.caption_MV.device), dim=1)


def _by_cluster(every_K: Tensor, read: Callable[[Tensor], Tensor], centre_LV: Tensor) -> list[Tensor]:
    """The rows of each cluster, by the nearest centre; `read` returns the vectors of some rows."""
    nearest_K = torch.cat([(read(rows) @ centre_LV.T).argmax(dim=1) for rows in every_K.split(CHUNK_ROWS)])
    counts = torch.bincount(nearest_K, minlength=len(centre_LV)).tolist()
    return list(nearest_K.argsort(stable=True).split(counts))
