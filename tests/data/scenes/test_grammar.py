"""What captions of generated scenes claim, word by word, and which texts are none."""

from __future__ import annotations

import pytest

from pipeline.data.scenes.scenes import Scene, Shape, parse, truth
from pipeline.errors import InputError


def scene(*shapes: str, background: str = "grey") -> Scene:
    """Scene of shapes such as "large red circle 0 2": size, colour, kind, row, column."""
    parts = [text.split() for text in shapes]
    drawn = tuple(Shape(kind, colour, size, int(row), int(column)) for size, colour, kind, row, column in parts)
    return Scene(background, drawn, ())


def holds(caption: str, picture: Scene) -> bool:
    return bool(truth([caption], [picture])[0, 0])


TWO = scene("large red circle 0 0", "small red circle 2 0", "small blue square 1 2")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("there is a circle", True),
        ("there is a star", False),
        ("there is a red shape", True),
        ("there is a large blue shape", False),
        ("there are two red circles", True),
        ("there are two circles at the top", False),
        ("there are two circles on the left", True),
        ("a picture of one circle", False),
        ("a picture of one large circle", True),
        ("a picture of one circle at the top", True),
        ("three shapes, one of them a blue square", True),
        ("three shapes, one of them a circle", True),
        ("two shapes, one of them a circle", False),
        ("only a large red circle", False),
        ("a red circle and a small circle", True),
        ("a blue square and a small square", False),
        ("a red circle above a small circle", True),
        ("a large circle below a square", False),
        ("a red circle left of a blue shape", True),
        ("a red circle left of a large circle", False),
        ("a square right of a circle on a grey background", True),
        ("a square right of a circle on a black background", False),
        ("a large circle in the top left corner", True),
        ("a small circle in the top left corner", False),
        ("a square in the centre", False),
        ("a square on the right", True),
    ],
)
def test_a_caption_claims_exactly_what_its_words_say(caption: str, expected: bool) -> None:
    assert holds(caption, TWO) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog on a sofa",
        "two circle on the left",
        "a orange star on the left",
        "there are a red circle",
        "one circle above a square",
        "one shapes, one of them a circle",
        "three shapes, one of them two circles",
        "a red circle on the left and",
        "a red large circle",
        "five circles on the left",
    ],
)
def test_a_text_outside_of_the_grammar_is_refused_with_its_words(text: str) -> None:
    with pytest.raises(InputError, match="not in the grammar") as error:
        parse(text)
    assert repr(text) in str(error.value)
