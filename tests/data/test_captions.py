"""Caption clean-up, as FNE's published data code does it."""

from __future__ import annotations

import pytest

from pipeline.data.captions import can_be_written, clean_caption


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A Dog RUNS", "a dog runs"),
        ('a,b. c\'d e!f? "g" (h) *i #j k: l; m~', "ab cd ef g h i j k l m"),
        ("black-and-white / t-shirt", "black and white t shirt"),
        ("two <person>s and a <dog>", "two persons and a <dog>"),
        ("  tabs\t, new\n\nlines  and \xa0 spaces ", "tabs new lines and spaces"),
        ("café 3 % & $5", "café 3 % & $5"),
        ("...", ""),
    ],
)
def test_it_is_lower_case_without_punctuation_and_with_single_spaces(caption: str, cleaned: str) -> None:
    assert clean_caption(caption, 30) == cleaned


@pytest.mark.parametrize(
    ("words", "cleaned"), [(1, "a"), (3, "a dog that"), (4, "a dog that runs"), (9, "a dog that runs")]
)
def test_its_first_words_are_kept(words: int, cleaned: str) -> None:
    assert clean_caption("A dog - that runs.", words) == cleaned


def test_half_a_character_cannot_be_written() -> None:
    assert can_be_written("ein Hündchen 🐶") and not can_be_written("a dog \ud83d")
