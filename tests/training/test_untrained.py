"""Statistics of a model that was not trained here."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.params import flat
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.training.untrained import update_by_split
from tests.training.making import params_with


def test_positives_are_those_of_the_training() -> None:
    generator = torch.Generator().manual_seed(1)
    image_ND = normalize(torch.randn(20, 3, generator=generator), dim=1)
    image_M = torch.arange(40) // 2
    text_MD = normalize(image_ND[image_M] + 0.2 * torch.randn(40, 3, generator=generator), dim=1)
    found = {}
    for known_positives in ("identity", "diagonal"):
        statistics, expected = SimilarityStatistics("exact"), SimilarityStatistics("exact")
        params = params_with(sampler__known_positives=known_positives, train__batch_size=40)
        update_by_split(statistics, image_ND, text_MD, image_M, params)
        same_BB = image_M[:, None] == image_M[None, :] if known_positives == "identity" else None
        expected.update(image_ND[image_M] @ text_MD.T, same_BB)
        found[known_positives] = flat(statistics.as_numbers())
        assert found[known_positives] == pytest.approx(flat(expected.as_numbers()), rel=1e-5)
    assert found["identity"] != pytest.approx(found["diagonal"])
