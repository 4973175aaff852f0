"""The similarity statistics of a model that was not trained here: on the validation split, in batches like training's.

Shapes: N images, M captions, B pairs in a batch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.features.inputs import epoch_plan
from pipeline.params import Params
from pipeline.sampling.statistics import SimilarityStatistics


@torch.no_grad()
def update_by_split(
    statistics: SimilarityStatistics, image_ND: Tensor, text_MD: Tensor, caption_image_M: Tensor, params: Params
) -> None:
    """Update `statistics` with every pair of a split once."""
    for rows in epoch_plan(len(text_MD), params.train.batch_size, params.seed, 0):
        rows_B = torch.from_numpy(rows)
        image_B = caption_image_M[rows_B].to(image_ND.device)
        similarity_BB = image_ND[image_B] @ text_MD[rows_B.to(text_MD.device)].T
        by_identity = params.sampler.known_positives == "identity"
        statistics.update(similarity_BB, image_B[:, None] == image_B[None, :] if by_identity else None)
