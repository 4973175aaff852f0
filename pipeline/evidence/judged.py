"""What a person's judgments of training pairs change: judged matches are known, judged wrong pairs do not count.

Shapes: N images, M captions, J judged pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.evidence.listed import ListedPosterior


def judged_matches(judged: Judged, split: Split) -> ListedPosterior | None:
    """1 for each unpaired image and caption that were judged to match, by id; None if there are none."""
    kept_J = torch.from_numpy(judged.match_J & ~judged.own_J)
    if not kept_J.any():
        return None
    image_P, caption_P = torch.from_numpy(judged.image_J)[kept_J], torch.from_numpy(judged.caption_J)[kept_J]
    return ListedPosterior(image_P, caption_P, torch.ones(len(image_P)), len(split.images), len(split.captions))


def judged_trust(trust_M: Tensor | None, judged: Judged, captions: int) -> Tensor | None:
    """The weight of each pair's loss (M,): 0 for a pair judged wrong, 1 for one judged right, else as in `trust_M`.

    `trust_M` None: pairs are not weighted, so that all others have 1; the result is None if no pair was judged wrong.
    """
    own_J = torch.from_numpy(judged.own_J)
    caption_J, match_J = torch.from_numpy(judged.caption_J)[own_J], torch.from_numpy(judged.match_J)[own_J]
    if trust_M is None and bool(match_J.all()):
        return None
    weight_M = torch.ones(captions) if trust_M is None else trust_M.clone()
    weight_M[caption_J] = match_J.to(weight_M)
    return weight_M
