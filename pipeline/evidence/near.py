"""Which captions an image is compared with where there are too many pairs: those of the clusters near its own captions.

Shapes: N images, M captions, V width, L clusters, I images and J captions of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.kinds import SplitEvidence, Vectors
from pipeline.runtime.processes import same_for_all

Block = tuple[Tensor, Tensor]
"""Numbers of images, and of the captions that they are compared with."""
CLUSTERS_PER_ROOT = 2  # L is so many times the root of M
FITTED_PER_CLUSTER = 64  # captions that the clusters are fitted to
PROBED = 24  # clusters that an image is compared with
CHUNK_ROWS = 1 << 14
SEED = 1  # of the clusters


def near_blocks(evidence: SplitEvidence, pairs: int) -> list[Block]:
    """Each image with the captions of the `PROBED` clusters nearest to its mean caption, `pairs` a block at most.

    No pair occurs twice. A pair is missed where the caption is in none of the image's clusters: of those that match few
    are, see docs/scale.md.
    """
    assert evidence.vectors is not None
    centre_LV = _clusters(evidence.vectors)
    probed = min(PROBED, len(centre_LV))
    every_M, every_N = (
        torch.arange(count, device=centre_LV.device) for count in (len(evidence.caption_image_M), evidence.images)
    )
    captions = _by_cluster(every_M, _nearest(every_M, evidence.vectors.captions, centre_LV, 1), len(centre_LV))
    images = _by_cluster(
        every_N.repeat_interleave(probed), _nearest(every_N, evidence.mean_captions, centre_LV, probed), len(centre_LV)
    )
    made: list[Block] = []
    for image_I, caption_J in zip(images, captions, strict=True):
        if len(image_I) and len(caption_J):
            made += [(rows, caption_J) for rows in image_I.split(max(1, pairs // len(caption_J)))]
    return made


def _clusters(vectors: Vectors) -> Tensor:
    """Unit centres (L, V) of evenly spaced captions' vectors, by k-means (Sculley 2010)."""
    from sklearn.cluster import MiniBatchKMeans

    captions = len(vectors.caption_MV)
    count = max(1, math.isqrt(captions) * CLUSTERS_PER_ROOT)
    sampled = min(captions, count * FITTED_PER_CLUSTER)
    sampled_S = torch.arange(sampled) * captions // sampled
    fitted = MiniBatchKMeans(
        min(count, len(sampled_S)), init="random", n_init=1, max_iter=10, batch_size=CHUNK_ROWS, random_state=SEED
    ).fit(vectors.captions(sampled_S.to(vectors.caption_MV.device)).cpu().numpy())
    return normalize(torch.from_numpy(fitted.cluster_centers_).float().to(vectors.caption_MV.device), dim=1)


def _nearest(every_K: Tensor, read: Callable[[Tensor], Tensor], centre_LV: Tensor, count: int) -> Tensor:
    """The clusters (K · count,) nearest to each row, int32; `read` returns the vectors of some rows."""
    parts = every_K.split(CHUNK_ROWS)
    found = torch.cat([(read(rows) @ centre_LV.T).topk(count, dim=1).indices.int().flatten() for rows in parts])
    return same_for_all(found)  # processes that share the blocks must have the same ones


def _by_cluster(row_P: Tensor, cluster_P: Tensor, clusters: int) -> list[Tensor]:
    """The rows of each cluster."""
    counts = torch.bincount(cluster_P, minlength=clusters).tolist()
    return list(row_P[cluster_P.argsort(stable=True)].split(counts))
