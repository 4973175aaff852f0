"""What is known of the pairs of a step, against loops over the pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.kinds import Vectors
from pipeline.evidence.listed import ListedPosterior
from pipeline.evidence.lookup import KnownPairs
from pipeline.sampling.candidates import Candidates, Ids

IMAGE_OF_M = torch.tensor([0, 0, 0, 1, 2, 2, 3])
GENERATOR = torch.Generator().manual_seed(0)
CAPTION = normalize(torch.randn(7, 5, generator=GENERATOR), dim=1)
IMAGE = normalize(torch.randn(4, 5, generator=GENERATOR), dim=1)
PICTURE = normalize(torch.randn(4, 3, generator=GENERATOR), dim=1)  # in a space of their own
ANCHORS, EMPTY = [1, 3, 4], -100
CANDIDATES = [1, 3, 4, 6, EMPTY, 0]  # captions; the last three are in the memory
LISTED = {(0, 3): 0.6, (1, 6): 0.2, (2, 1): 0.7}


def image_of(caption: int) -> int:
    return EMPTY if caption < 0 else int(IMAGE_OF_M[caption])


def seen(*, to_text: bool) -> Candidates:
    anchors, ids = (
        Ids(torch.tensor([image_of(c) for c in captions]), torch.tensor(captions)) for captions in (ANCHORS, CANDIDATES)
    )
    similarity_BC, own_B = torch.zeros(3, 6), torch.arange(3)
    return Candidates(similarity_BC, similarity_BC[:, 0], similarity_BC.bool(), own_B, anchors, ids, to_text, 0.05)


def known(*, posteriors: bool = False) -> KnownPairs:
    if not posteriors:
        return KnownPairs(IMAGE_OF_M, None, None, Vectors(CAPTION, IMAGE), PICTURE)
    image_P, caption_P = (torch.tensor(side) for side in zip(*LISTED, strict=True))
    listed = ListedPosterior(image_P, caption_P, torch.tensor(list(LISTED.values())), 4, 7)
    return KnownPairs(IMAGE_OF_M, listed, torch.arange(7) / 10, None)


def slow(of: Any, *, to_text: bool) -> Tensor:
    """`of` (image, caption) of each pair of an anchor and a candidate; -1 for an empty slot."""
    rows = []
    for anchor in ANCHORS:
        pairs = [(image_of(anchor), c) if to_text else (image_of(c), anchor) for c in CANDIDATES]
        rows.append([-1.0 if min(pair) < 0 else float(of(*pair)) for pair in pairs])
    return torch.tensor(rows)


@pytest.mark.parametrize("to_text", [True, False])
def test_agreement_is_the_nearest_caption_of_the_image(to_text: bool) -> None:
    def nearest(image: int, caption: int) -> Tensor:
        return max(CAPTION[c] @ CAPTION[caption] for c in range(7) if IMAGE_OF_M[c] == image)

    torch.testing.assert_close(known().agreement(seen(to_text=to_text)), slow(nearest, to_text=to_text))


@pytest.mark.parametrize("to_text", [True, False])
def test_a_guide_by_frozen_vectors_is_their_cosine(to_text: bool) -> None:
    guide_bC, own_b = known().guide(seen(to_text=to_text))
    expected = slow(lambda image, caption: IMAGE[image] @ CAPTION[caption], to_text=to_text)
    torch.testing.assert_close(guide_bC, expected)
    torch.testing.assert_close(own_b, guide_bC.diagonal())


@pytest.mark.parametrize("to_text", [True, False])
def test_a_guide_by_the_posterior_has_nothing_against_what_is_not_listed(to_text: bool) -> None:
    guide_bC, own_b = known(posteriors=True).guide(seen(to_text=to_text))
    expected = slow(lambda *pair: LISTED.get(pair, -torch.inf), to_text=to_text)
    torch.testing.assert_close(guide_bC, expected.masked_fill(expected == -1, -torch.inf))
    assert own_b.tolist() == pytest.approx([0.1, 0.3, 0.4])


def test_captions_and_pictures_are_compared_with_their_like() -> None:
    for to_text in (True, False):
        captions_bC, pictures_bC = known().captions(seen(to_text=to_text)), known().pictures(seen(to_text=to_text))
        for b, anchor in enumerate(ANCHORS):
            for c, candidate in enumerate(CANDIDATES):
                there = candidate >= 0
                caption = float(CAPTION[anchor] @ CAPTION[candidate]) if there else -1
                picture = float(PICTURE[image_of(anchor)] @ PICTURE[image_of(candidate)]) if there else -1
                assert captions_bC[b, c].item() == pytest.approx(caption, abs=1e-6)
                assert pictures_bC[b, c].item() == pytest.approx(picture, abs=1e-6)


def test_the_usual_agreement_is_a_percentile_of_unpaired_pairs() -> None:
    values = [
        max(float(CAPTION[c] @ CAPTION[caption]) for c in range(7) if IMAGE_OF_M[c] == image)
        for image in range(4)
        for caption in range(7)
        if IMAGE_OF_M[caption] != image
    ]
    assert known().usual_agreement == pytest.approx(float(torch.tensor(values).quantile(0.7)), abs=1e-6)
