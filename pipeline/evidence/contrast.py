"""Trust in a pair compared with what else the caption could describe: for audits, where the order of the list counts.

Shapes: N images, M captions, V width, B captions at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.evidence.kinds import ABOUT_THE_PAIR, SplitEvidence
from pipeline.evidence.trust import trust_by

NEIGHBOURS = 5
CHUNK_ROWS = 512  # of the similarity matrix


def nearest_elsewhere(caption_MV: Tensor, caption_image_M: Tensor) -> Tensor:
    """The mean cosine of each caption (M,) with its `NEIGHBOURS` most similar captions of other images."""
    found = []
    for text_BV, image_B in zip(caption_MV.split(CHUNK_ROWS), caption_image_M.split(CHUNK_ROWS), strict=True):
        cosine_BM = (text_BV @ caption_MV.T).masked_fill_(image_B[:, None] == caption_image_M[None, :], -torch.inf)
        best_Bn = cosine_BM.topk(min(NEIGHBOURS, len(caption_MV)), dim=1).values
        there_Bn = best_Bn.isfinite()
        found.append(best_Bn.masked_fill(~there_Bn, 0).sum(1) / there_Bn.sum(1).clamp(min=1))
    return torch.cat(found)


def contrasted_trust(evidence: SplitEvidence, seed: int) -> Tensor:
    """The probability that each pair is right (M,), as `trust_by`, with one kind of evidence changed.

    `captions`, the agreement with the image's other captions, is taken minus `nearest_elsewhere`: a caption that agrees
    little with its siblings is odd if other images have captions like it, and only terse or original if none has. The
    same idea normalises a similarity in negCLIPLoss (Wang et al. 2024) and LEMoN (Zhang et al. 2024).
    """
    device = evidence.caption_image_M.device
    every_M = torch.arange(len(evidence.caption_image_M), device=device)
    kinds = [kind for kind in evidence.kinds if kind in ABOUT_THE_PAIR]
    if not kinds:
        return torch.ones(len(every_M), dtype=torch.float64)
    elsewhere_M: Tensor | float = 0.0
    if "captions" in kinds:
        assert evidence.vectors is not None
        elsewhere_M = nearest_elsewhere(evidence.vectors.caption_MV, evidence.caption_image_M).double().cpu()

    def compared(image_M: Tensor) -> Tensor:
        value_MF = evidence.of(image_M, every_M, kinds)
        if "captions" in kinds:
            value_MF[:, kinds.index("captions")] -= elsewhere_M
        return value_MF

    return trust_by(compared, evidence.caption_image_M, evidence.images, seed)
