"""Trust for audits: a caption that others than its siblings resemble is the odd one."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from pipeline.evidence.contrast import contrasted_trust, nearest_elsewhere
from pipeline.evidence.kinds import SplitEvidence, Vectors
from pipeline.evidence.trust import trust_by


def test_the_nearest_elsewhere_are_of_other_images_only() -> None:
    generator = torch.Generator().manual_seed(0)
    text_MV = normalize(torch.randn(30, 4, generator=generator), dim=1)
    image_M = torch.arange(30) // 3
    found_M = nearest_elsewhere(text_MV, image_M)
    for row in range(30):
        others = [float(text_MV[row] @ text_MV[other]) for other in range(30) if image_M[other] != image_M[row]]
        assert abs(float(found_M[row]) - sum(sorted(others)[-5:]) / 5) < 1e-6
    assert nearest_elsewhere(text_MV[:3], image_M[:3]).tolist() == [0, 0, 0], "there is no other image"


def test_an_original_caption_is_trusted_more_than_one_that_fits_elsewhere() -> None:
    generator = torch.Generator().manual_seed(1)
    topic_NV = normalize(torch.randn(40, 32, generator=generator), dim=1)
    image_M = torch.arange(40).repeat_interleave(4)
    text_MV = normalize(topic_NV[image_M] + 0.1 * torch.randn(160, 32, generator=generator), dim=1)
    text_MV[0] = normalize(topic_NV[7] + 0.1 * torch.randn(32, generator=generator), dim=0)  # another picture's caption
    text_MV[4] = normalize(torch.randn(32, generator=generator), dim=0)  # like nothing
    evidence = SplitEvidence(["captions"], image_M, {}, Vectors(text_MV, None))
    trust_M = contrasted_trust(evidence, seed=1)
    assert trust_M.argmin() == 0
    assert trust_M[0] < 0.1 < trust_M[8:].min()
    every_M = torch.arange(160)
    plain_M = trust_by(lambda image_K: evidence.of(image_K, every_M), image_M, 40, seed=1)
    assert trust_M[4] > 2 * plain_M[4]
