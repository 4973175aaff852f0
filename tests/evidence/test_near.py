"""Where there are too many pairs for all, an image is compared with captions near its own: nearly all that match."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.data.splits.format import Split
from pipeline.evidence import kinds
from pipeline.evidence.kinds import SplitEvidence, Vectors
from pipeline.evidence.listed import listed_pairs
from pipeline.evidence.near import near_blocks
from pipeline.evidence.posterior import fit_posterior
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


def test_nearly_all_pairs_that_are_listed_by_comparing_every_pair_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    image_M, made = vectors()
    evidence, every_M = SplitEvidence(KINDS, image_M, {}, made), torch.arange(len(image_M))
    posterior = fit_posterior(evidence.of(image_M, every_M), evidence.of(image_M.roll(99), every_M), prior=TOPICS)
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


def test_each_image_is_in_one_block_with_a_bounded_number_of_pairs() -> None:
    image_M, made = vectors()
    evidence = SplitEvidence(KINDS, image_M, {}, made)
    blocks = [(images, near()) for images, near in near_blocks(evidence, 1000)]
    assert sorted(torch.cat([images for images, _ in blocks]).tolist()) == list(range(evidence.images))
    for images, captions in blocks:
        assert isinstance(captions, torch.Tensor)
        assert len(captions.unique()) == len(captions) < len(image_M)
        assert len(images) == 1 or len(images) * len(captions) <= 1000


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
    for one, other in zip(halved.block(rows_I, slice(None)), whole.block(rows_I, rows_J), strict=True):
        torch.testing.assert_close(one[:, rows_J], other, rtol=0, atol=1e-6)
