"""Where there are too many pairs for all, an image is compared with captions near its own: nearly all that match."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.data.splits.format import Split
from pipeline.evidence import kinds
from pipeline.evidence.kinds import SplitEvidence, Vectors
from pipeline.evidence.listed import listed_pairs
from pipeline.evidence.near import _clusters, near_blocks
from pipeline.evidence.posterior import Posterior, fit_posterior
from pipeline.evidence.table import open_evidence
from pipeline.evidence.vectors import write_rows

TOPICS, IMAGES, CAPTIONS, WIDTH = 60, 4, 3, 32  # images of a topic, captions of an image
KINDS = ("captions", "regression", "pictures")


def vectors() -> tuple[torch.Tensor, Vectors]:
    """The image of each caption, and vectors in which images of a topic match each other's captions."""
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int) -> torch.Tensor:
        return normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)

    topic_NV = noise(TOPICS).repeat_interleave(IMAGES, 0)
    image_M = torch.arange(len(topic_NV)).repeat_interleave(CAPTIONS)[
        torch.randperm(len(topic_NV) * CAPTIONS, generator=generator)
    ]
    caption_MV = normalize(topic_NV[image_M] + 0.6 * noise(len(image_M)), dim=1)
    return image_M, Vectors(caption_MV, normalize(topic_NV + 0.6 * noise(len(topic_NV)), dim=1))


def compared() -> tuple[SplitEvidence, Posterior]:
    image_M, made = vectors()
    evidence, every_M = SplitEvidence(KINDS, image_M, {}, made), torch.arange(len(image_M))
    return evidence, fit_posterior(evidence.of(image_M, every_M), evidence.of(image_M.roll(99), every_M), prior=TOPICS)


def test_nearly_all_pairs_that_are_listed_by_comparing_every_pair_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, posterior = compared()
    every = listed_pairs(evidence, posterior)
    monkeypatch.setattr(kinds, "LARGEST_TABLE", 0)
    monkeypatch.setattr("pipeline.evidence.near.PROBED", 8)
    near = listed_pairs(evidence, posterior)
    found, expected = (list(zip(*(part.tolist() for part in pairs.values()), strict=True)) for pairs in (near, every))
    chance = {(image, caption): ratio for image, caption, ratio in expected}
    assert found == [(image, caption, chance[image, caption]) for image, caption, _ in found]
    assert [pair[:2] for pair in found] == sorted(pair[:2] for pair in found)
    assert 0.95 * len(chance) < len(found) <= len(chance)
    assert len(chance) > TOPICS * IMAGES * (IMAGES - 1) * CAPTIONS / 2


def test_each_image_meets_the_captions_of_its_nearest_clusters_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image_M, made = vectors()
    evidence = SplitEvidence(KINDS, image_M, {}, made)
    monkeypatch.setattr("pipeline.evidence.near.PROBED", 3)
    met_NM = torch.zeros(evidence.images, len(image_M), dtype=torch.long)
    for images, captions in near_blocks(evidence, 100):
        assert len(images) == 1 or len(images) * len(captions) <= 100
        met_NM[images[:, None], captions] += 1
    assert met_NM.max() == 1
    share_N = met_NM.double().mean(dim=1)
    assert share_N.min() > 0 and share_N.mean() < 0.2, "three of 52 clusters"
    own_M = met_NM[image_M, torch.arange(len(image_M))]
    assert own_M.double().mean() > 0.7, "an image's captions are near their mean"


@pytest.mark.parametrize(("bound", "value"), [("MOST_PER_IMAGE", 3), ("MOST_PAIRS", 3 * TOPICS * IMAGES)])
def test_a_large_split_lists_the_best_pairs_of_an_image(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the second bound they are trimmed on the way, too."""
    evidence, posterior = compared()
    monkeypatch.setattr(kinds, "LARGEST_TABLE", 0)
    whole = by_image(listed_pairs(evidence, posterior))
    monkeypatch.setattr(f"pipeline.evidence.listed.{bound}", value)
    found = by_image(listed_pairs(evidence, posterior))
    assert max(map(len, whole)) > max(map(len, found)) == 3
    best = [sorted(ratio for _, _, ratio in group)[-3:] for group in whole]
    assert [sorted(ratio for _, _, ratio in group) for group in found] == best


def by_image(pairs: dict[str, torch.Tensor]) -> list[list[tuple[int, int, float]]]:
    rows = list(zip(*(part.tolist() for part in pairs.values()), strict=True))
    return [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]


def test_captions_in_the_order_of_their_topics_are_found_as_well() -> None:
    """The clusters are fitted to captions of all parts of the split, and their centres are directions."""
    image_M, made = vectors()
    order_M = image_M.argsort()
    sorted_vectors = Vectors(made.caption_MV[order_M], made.image_NV)
    centre_LV = _clusters(sorted_vectors)
    torch.testing.assert_close(centre_LV.norm(dim=1), torch.ones(len(centre_LV)))
    assert (sorted_vectors.caption_MV @ centre_LV.T).amax(dim=1).min() > 0.5


def test_vectors_of_many_pairs_stay_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_M, made = vectors()
    assert made.image_NV is not None
    names = tuple(f"{number}.jpg" for number in range(len(made.image_NV)))
    split = Split(names, ("a caption",) * len(image_M), tuple(image_M.tolist()))
    for side, row_NV in (("captions", made.caption_MV), ("images", made.image_NV)):
        write_rows(tmp_path / "train", side, row_NV)
    whole = open_evidence(tmp_path, {"train": split}, "train", KINDS)
    monkeypatch.setattr(kinds, "LARGEST_TABLE", 0)
    halved = open_evidence(tmp_path, {"train": split}, "train", KINDS)
    assert halved.vectors is not None
    assert halved.vectors.caption_MV.dtype == torch.float16
    image_K, caption_K = torch.arange(100), torch.arange(100, 200)
    assert torch.equal(halved.of(image_K, caption_K), whole.of(image_K, caption_K))
    rows_I, rows_J = torch.arange(7), torch.arange(50, 60)
    for one, other in zip(halved.block(rows_I, rows_J), whole.block(rows_I, rows_J), strict=True):
        assert torch.equal(one, other)
