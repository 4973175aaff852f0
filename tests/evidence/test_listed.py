"""All pairs of a split, kind by kind, and those that are listed: the same as asking about each pair alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence import kinds, listed
from pipeline.evidence.kinds import SplitEvidence, Vectors
from pipeline.evidence.listed import ListedPosterior, listed_pairs
from pipeline.evidence.posterior import Posterior, fit_posterior
from pipeline.evidence.words import WordCoverage

KINDS = ("words", "captions", "regression", "pictures")
IMAGE_OF_M = torch.tensor([2, 0, 1, 1, 2, 2, 3, 1, 4, 4])  # 1, 3, 3, 1 and 2 captions, in no order
CAPTIONS = ["a dog", "a cat", "a dog runs", "red dog", "a", "dog runs home", "blue", "a red cat", "home", "cat runs"]


def split_evidence(seed: int = 0) -> SplitEvidence:
    generator = torch.Generator().manual_seed(seed)
    caption_MV, image_NV = (normalize(torch.randn(rows, 4, generator=generator), dim=1) for rows in (10, 5))
    idf = {"a": 0.1, "dog": 1.0, "cat": 1.5, "runs": 1.0, "red": 2.0, "home": 2.0, "blue": 2.5}
    coverage = WordCoverage(CAPTIONS, IMAGE_OF_M, idf)
    return SplitEvidence(KINDS, IMAGE_OF_M, {"words": coverage}, Vectors(caption_MV, image_NV))


def unpaired() -> tuple[Tensor, Tensor]:
    image_K, caption_K = (IMAGE_OF_M[None, :] != torch.arange(5)[:, None]).nonzero().unbind(1)
    return image_K, caption_K


def fitted(evidence: SplitEvidence) -> Posterior:
    positive_KF = evidence.of(IMAGE_OF_M, torch.arange(10))
    posterior = fit_posterior(positive_KF, evidence.of(*unpaired()), prior=20)
    return replace(posterior, temperature=3.0, prior=2000.0)  # ten pairs decide nothing: let some be listed


def test_a_block_holds_what_each_pair_alone_has() -> None:
    evidence, (image_K, caption_K) = split_evidence(), unpaired()
    for kind, block_NM in enumerate(evidence.block(torch.arange(5), torch.arange(10))):
        alone_K = evidence.of(image_K, caption_K)[:, kind].float()
        torch.testing.assert_close(block_NM[image_K, caption_K], alone_K, equal_nan=True)


def test_a_block_of_some_captions_is_a_part_of_the_whole_block() -> None:
    evidence, image_I, caption_J = split_evidence(), torch.tensor([3, 0]), torch.tensor([7, 2, 9])
    whole = evidence.block(image_I, torch.arange(10))
    for part_IJ, whole_IM in zip(evidence.block(image_I, caption_J), whole, strict=True):
        torch.testing.assert_close(part_IJ, whole_IM[:, caption_J], equal_nan=True)


def test_words_alone_are_compared_with_all_however_large_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = split_evidence(1)
    evidence = SplitEvidence(["words"], IMAGE_OF_M, whole.worded)
    posterior = fitted(evidence)
    every = listed_pairs(evidence, posterior)
    monkeypatch.setattr(kinds, "LARGEST_TABLE", 0)
    assert len(every["image_P"]) > 0
    for name, part_P in listed_pairs(evidence, posterior).items():
        assert torch.equal(part_P, every[name])


def test_listed_are_the_unpaired_pairs_with_enough_evidence_and_their_exact_log_ratios() -> None:
    evidence, (image_K, caption_K) = split_evidence(1), unpaired()
    posterior = fitted(evidence)
    columns_KF = evidence.of(image_K, caption_K)
    ratio_K, kept_K = posterior.log_ratio(columns_KF), posterior.probability(columns_KF) >= 0.01
    assert 0 < kept_K.sum() < len(kept_K)
    found = listed_pairs(evidence, posterior)
    assert found["image_P"].tolist() == image_K[kept_K].tolist()
    assert found["caption_P"].tolist() == caption_K[kept_K].tolist()
    assert found["log_ratio_P"].tolist() == ratio_K[kept_K].float().tolist()


def test_an_image_lists_no_more_than_its_best_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = split_evidence(1)
    posterior = fitted(evidence)
    monkeypatch.setattr(listed, "LEAST_POSTERIOR", 0.0005)
    every = listed_pairs(evidence, posterior)
    monkeypatch.setattr(listed, "MOST_PER_IMAGE", 1)
    best = listed_pairs(evidence, posterior)
    highest = {
        image: max(every["log_ratio_P"][every["image_P"] == image].tolist()) for image in every["image_P"].tolist()
    }
    assert len(every["image_P"]) > len(highest)
    assert dict(zip(best["image_P"].tolist(), best["log_ratio_P"].tolist(), strict=True)) == highest


@pytest.mark.parametrize("most", [1, 2, 512])
def test_what_is_listed_does_not_depend_on_the_blocks(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where evidence ties for an image's last place: products of these vectors are exact, and often equal."""
    sign_MV = torch.randint(2, (10, 4), generator=torch.Generator().manual_seed(1)) - 0.5
    evidence = SplitEvidence(["captions"], IMAGE_OF_M, {}, Vectors(sign_MV, None))
    posterior = replace(fitted(evidence), prior=20.0)
    monkeypatch.setattr(listed, "MOST_PER_IMAGE", most)
    monkeypatch.setattr(listed, "LEAST_POSTERIOR", 0.0005)
    found = [pairs_of(evidence, posterior)]
    for pairs, captions in ((1, 1), (12, 10), (7, 3), (4, 2)):
        monkeypatch.setattr(listed, "BLOCK_PAIRS", pairs)
        monkeypatch.setattr(listed, "BLOCK_CAPTIONS", captions)
        assert max(len(rows) * len(columns) for rows, columns in listed.blocks(evidence)) <= pairs
        found.append(pairs_of(evidence, posterior))
    monkeypatch.setattr(listed, "blocks", lambda evidence, blocks=listed.blocks: blocks(evidence)[::-1])
    found.append(pairs_of(evidence, posterior))
    assert len(found[0]) > 3 and found == found[:1] * len(found)


def pairs_of(evidence: SplitEvidence, posterior: Posterior) -> list[tuple[int, int]]:
    pairs = listed_pairs(evidence, posterior)
    return list(zip(pairs["image_P"].tolist(), pairs["caption_P"].tolist(), strict=True))


ids = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@settings(max_examples=60)
@given(pairs=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=20), images=ids, memory=ids)
def test_a_look_up_is_the_table_of_all_pairs(pairs: set[tuple[int, int]], images: list[int], memory: list[int]) -> None:
    table_NM = torch.zeros(5, 10)
    for number, (image, caption) in enumerate(sorted(pairs)):
        table_NM[image, caption] = (number + 1) / 32
    image_P, caption_P = table_NM.nonzero().unbind(1)
    look_up = ListedPosterior(image_P, caption_P, table_NM[image_P, caption_P], 5, 10)
    captions = [2 * image for image in memory] + [9, 9]
    for anchors, candidates, table, to_text in (
        (images, captions, table_NM, True),
        (captions, images + images, table_NM.T, False),
    ):
        candidate_C = torch.tensor([*candidates, -1])  # -1: a slot of the memory without a pair
        expected_bC = table[anchors][:, candidate_C.clamp(min=0)] * (candidate_C >= 0)
        look_up(torch.tensor(anchors), torch.arange(table.shape[1]), to_text=to_text)  # leaves nothing behind
        assert torch.equal(look_up(torch.tensor(anchors), candidate_C, to_text=to_text), expected_bC)


def test_the_fast_log_ratio_is_the_exact_one() -> None:
    evidence, (image_K, caption_K) = split_evidence(2), unpaired()
    posterior, columns_KF = fitted(evidence), evidence.of(image_K, caption_K)
    fast_K = posterior.fast_log_ratio([column_K.float() for column_K in columns_KF.unbind(1)])
    torch.testing.assert_close(fast_K, posterior.log_ratio(columns_KF).float(), rtol=1e-4, atol=1e-4)
    assert math.isfinite(fast_K.sum())
