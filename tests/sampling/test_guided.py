"""What a second opinion leaves as negatives, against the formulas written out."""

from __future__ import annotations

import pytest
import torch

from pipeline.sampling.guided import (
    agreement_margins,
    below_threshold_weights,
    guided_weights,
    true_negative_weights,
)

GENERATOR = torch.Generator().manual_seed(0)
GUIDE = torch.rand(4, 9, generator=GENERATOR)
OWN = torch.rand(4, generator=GENERATOR)
EXCLUDED = torch.rand(4, 9, generator=GENERATOR) < 0.3


@pytest.mark.parametrize(
    ("margin", "relative"), [(0.0, False), (0.2, False), (0.05, True)], ids=["gist", "marginpos", "percpos"]
)
def test_a_candidate_that_the_guide_likes_as_much_as_the_own_pair_is_no_negative(margin: float, relative: bool) -> None:
    slow = []
    for guide, own, excluded in zip(GUIDE.tolist(), OWN.tolist(), EXCLUDED.tolist(), strict=True):
        limit = 0.95 * own if relative else own - margin
        slow.append([float(e <= limit and not x) for e, x in zip(guide, excluded, strict=True)])
    weights_BC = guided_weights(GUIDE, OWN, EXCLUDED, margin, relative=relative)
    assert weights_BC.tolist() == slow
    assert 0 < weights_BC.sum() < (~EXCLUDED).sum()


def test_lgs_margin_falls_above_the_usual_agreement() -> None:
    slow = [[0.2 * (1 - r) / 0.7 if r >= 0.3 else 0.2 for r in row] for row in GUIDE.tolist()]
    assert agreement_margins(GUIDE, 0.3, 0.2).tolist() == [pytest.approx(row) for row in slow]


def test_the_oracle_leaves_out_what_matches_and_glofnd_what_is_above() -> None:
    true_BC = GUIDE > 0.5
    assert torch.equal(true_negative_weights(true_BC, EXCLUDED), ((GUIDE <= 0.5) & ~EXCLUDED).float())
    above_BC = OWN[:, None] < GUIDE
    assert torch.equal(below_threshold_weights(GUIDE, OWN, EXCLUDED), (~above_BC & ~EXCLUDED).float())
