"""Words that captions share, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evidence import words as module
from pipeline.evidence.words import WordCoverage, inverse_document_frequencies
from tests.evidence.planted import ragged
from tests.evidence.test_captions import others


def left_out(references: list[int], own: bool) -> list[list[int]]:
    """The sets of references that the answer is the mean over."""
    if own or not references:
        return [references]
    return [references[:place] + references[place + 1 :] for place in range(len(references))]


def test_a_word_that_all_images_have_says_nothing_and_a_rare_one_most() -> None:
    captions = ["a cat", "one cat", "a dog a dog", "one dog"]
    idf = inverse_document_frequencies(captions, torch.tensor([0, 0, 1, 1]))
    assert idf == pytest.approx({"a": 0, "one": 0, "cat": math.log(3 / 2), "dog": math.log(3 / 2)})


@given(seed=st.integers(0, 10**6), chunk=st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_coverage_is_the_mass_of_words_that_other_captions_have(seed: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    caption_image_M = torch.cat([torch.arange(4), ragged(4, 4, seed)])
    captions = [
        " ".join("abcdef"[letter] for letter in torch.randint(6, (int(length),), generator=generator))
        for length in torch.randint(1, 5, (len(caption_image_M),), generator=generator)
    ]
    idf = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 1.5, "e": 2.5}  # f is in no training caption
    mass = {**idf, "f": 2.5}
    image_K, caption_K = torch.cartesian_prod(torch.arange(4), torch.arange(len(captions))).unbind(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "CHUNK_PAIRS", chunk)
        found_K = WordCoverage(captions, caption_image_M, idf).of(image_K, caption_K)
    for found, image, caption in zip(found_K.tolist(), image_K.tolist(), caption_K.tolist(), strict=True):
        said, rows = set(captions[caption].split()), others(caption_image_M, image, caption)
        own = bool(caption_image_M[caption] == image)
        shares = [
            sum(mass[word] for word in said if any(word in captions[row].split() for row in kept))
            for kept in left_out(rows, own)
        ]
        total = sum(mass[word] for word in said)
        exists = total > 0 and len(rows) + own > 1
        assert found == pytest.approx(sum(shares) / len(shares) / total if exists else math.nan, nan_ok=True)
