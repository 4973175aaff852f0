from __future__ import annotations

import pytest
import torch

from pipeline.data.splits.format import Split
from pipeline.evidence.kinds import SplitEvidence, Vectors
from pipeline.evidence.words import WordCoverage, caption_terms
from pipeline.report.reasons import missing_terms, reasons

CAPTIONS = ("A red dog runs.", "a dog on grass", "the cat sleeps", "a black cat")
SPLIT = Split(("dog.png", "cat.png"), CAPTIONS, (0, 0, 1, 1))
OWNERS = torch.tensor(SPLIT.caption_image)


def evidence_of(*kinds: str) -> SplitEvidence:
    """Every word of the same weight; captions in a plane at 0, 90, 20 and 50 degrees, both images at 0."""
    worded = {
        kind: WordCoverage(caption_terms(CAPTIONS, words), OWNERS, {}) for kind, words in (("words", 1), ("phrases", 2))
    }
    degrees_M = torch.tensor([0.0, 90.0, 20.0, 50.0]).deg2rad()
    vectors = Vectors(torch.stack([degrees_M.cos(), degrees_M.sin()], 1), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    return SplitEvidence(kinds, OWNERS, worded, vectors)


def test_missing_terms_are_named_once_in_the_captions_order() -> None:
    assert missing_terms("a big, big dog", ["a dog", "two cats"], 1) == ["big"]
    assert missing_terms("a big dog", ["a dog", "big dog"], 2) == ["a big"]
    assert missing_terms("A DOG!", ["a dog"], 1) == []


def test_words_and_phrases_say_what_is_covered_and_what_is_missing() -> None:
    words, phrases = reasons(evidence_of("words", "phrases"), SPLIT, 1, 1)
    assert words.kind == "words"
    assert words.value == pytest.approx(0.125), "only `a`, in one of the image's two captions"
    assert words.text == "12% covered, missing “dog”, “on”, “grass”"
    assert phrases.text == "0% covered, missing “a dog”, “dog on”, “on grass”"


def test_the_nearest_caption_is_another_one_of_the_image() -> None:
    (unpaired,) = reasons(evidence_of("captions"), SPLIT, 1, 0)
    assert "nearest is “the cat sleeps” (cosine 0.94)" in unpaired.text
    assert unpaired.value == pytest.approx((0.9397 + 0.6428) / 2, abs=1e-3), "jackknifed"
    (own,) = reasons(evidence_of("captions"), SPLIT, 1, 2)
    assert "nearest is “a black cat” (cosine 0.87)" in own.text


def test_numbers_speak_for_pictures_and_regression() -> None:
    regression, pictures = reasons(evidence_of("regression", "pictures"), SPLIT, 0, 2)
    assert (regression.kind, regression.text.split(",")[0]) == ("regression", "0.94")
    assert (pictures.kind, pictures.text.split(",")[0]) == ("pictures", "0.50")


def test_evidence_that_a_pair_does_not_have_is_no_reason() -> None:
    single = Split(("dog.png", "cat.png"), CAPTIONS[1:3], (0, 1))
    owners = torch.tensor([0, 1])
    evidence = SplitEvidence(["words"], owners, {"words": WordCoverage(caption_terms(single.captions, 1), owners, {})})
    assert reasons(evidence, single, 1, 0) == []
