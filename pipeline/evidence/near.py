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
from pipeline.runtime.processes import gather, local_span, same_for_all

Block = tuple[Tensor, Tensor]
"""Numbers of images, and of the captions that they are compared with."""
CLUSTERS_PER_ROOT = 2  # L is so many times the root of M
FITTED_PER_CLUSTER = 64  # captions that the clusters are fitted to
PROBED = 24  # clusters that an image is compared with
CHUNK_ROWS = 1 << 14
SEED = 1  # of the clusters


def near_blocks(evidence: SplitEvidence, pairs: int) -> list[Block]:
    """Each image with the captions of the `PROBED` clusters nearest to its mean caption, `pairs` a block at most.

    No pair occurs twice. A pair is missed where the caption is in none of the image's clusters: docs/scale.md says how
    many of those that match are.
    """
    assert evidence.vectors is not None
    centre_LV = _clusters(evidence.vectors)
    captions = _by_cluster(
        _nearest(len(evidence.caption_image_M), evidence.vectors.captions, centre_LV, 1), len(centre_LV)
    )
    images = _by_cluster(
        _nearest(evidence.images, evidence.mean_captions, centre_LV, min(PROBED, len(centre_LV))), len(centre_LV)
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
    count = CLUSTERS_PER_ROOT * math.isqrt(captions)
    sampled = min(captions, count * FITTED_PER_CLUSTER)
    sampled_S = torch.arange(sampled) * captions // sampled
    fitted = MiniBatchKMeans(
        min(count, len(sampled_S)), init="random", n_init=1, max_iter=10, batch_size=CHUNK_ROWS, random_state=SEED
    ).fit(vectors.captions(sampled_S.to(vectors.caption_MV.device)).cpu().numpy())
    centre_LV = normalize(torch.from_numpy(fitted.cluster_centers_).float().to(vectors.caption_MV.device), dim=1)
    return same_for_all(centre_LV)


def _nearest(rows: int, read: Callable[[Tensor], Tensor], centre_LV: Tensor, count: int) -> Tensor:
    """The clusters (rows, count), int32, nearest to each row, which processes share; `read` returns some vectors."""
    own = local_span(rows)
    parts = torch.arange(own.start, own.stop, device=centre_LV.device).split(CHUNK_ROWS)
    return gather(torch.cat([(read(part) @ centre_LV.T).topk(count, dim=1).indices.int() for part in parts]), rows)


def _by_cluster(cluster_KC: Tensor, clusters: int) -> list[Tensor]:
    """The rows of each cluster, of the clusters of each row."""
    rows, of_each = cluster_KC.shape
    row_P = torch.arange(rows, device=cluster_KC.device).repeat_interleave(of_each)
    cluster_P = cluster_KC.flatten()
    counts = torch.bincount(cluster_P, minlength=clusters).tolist()
    return list(row_P[cluster_P.argsort(stable=True)].split(counts))
