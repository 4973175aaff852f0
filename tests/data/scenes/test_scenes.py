"""Generated scenes: what a caption says is true of its own picture, and known of every other one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.captions import clean_caption
from pipeline.data.scenes.drawing import BACKGROUNDS, COLOURS, KINDS
from pipeline.data.scenes.grammar import NUMBERS, PLACES, RELATIONS, SIZES, wordings
from pipeline.data.scenes.scenes import Description, Predicate, Scene, Shape, generate, parse, truth, vocabulary
from pipeline.errors import InputError
from pipeline.params import ScenesParams, load_params

DEFAULTS = load_params(Path(__file__).parents[3] / "params.yaml").data.scenes
HARD = DEFAULTS.model_copy(update={"min_shapes": 1, "max_shapes": 4, "colours": 8, "detail": 0.5})


def true_pictures_of_each_caption(params: ScenesParams, count: int) -> np.ndarray[Any, Any]:
    scenes = generate(params, params.seed, count, stream="test")
    return truth([caption for picture in scenes for caption in picture.captions], scenes).sum(axis=1)


# Truth against the obvious way


def obviously_true(claim: Predicate, picture: Scene) -> bool:
    """One caption, one picture, shape by shape, as the grammar's docstring words it."""

    def fits(shape: Shape, said: Description) -> bool:
        for wanted, found in ((said.kind, shape.kind), (said.colour, shape.colour), (said.size, shape.size)):
            if wanted is not None and wanted != found:
                return False
        words = (said.place or "").split()
        return not (
            ("top" in words and shape.row != 0)
            or ("bottom" in words and shape.row != 2)
            or ("left" in words and shape.column != 0)
            or ("right" in words and shape.column != 2)
            or ("centre" in words and (shape.row, shape.column) != (1, 1))
        )

    def stand(first: Shape, second: Shape) -> bool:
        if claim.relation == "above":
            return first.row < second.row
        if claim.relation == "below":
            return first.row > second.row
        if claim.relation == "left of":
            return first.column < second.column
        if claim.relation == "right of":
            return first.column > second.column
        return True

    fitting = [shape for shape in picture.shapes if fits(shape, claim.subject)]
    if claim.background is not None and claim.background != picture.background:
        return False
    if claim.total is not None and claim.total != len(picture.shapes):
        return False
    if claim.count is not None:
        return len(fitting) == claim.count
    if claim.other is not None:
        return any(
            first is not second and fits(second, claim.other) and stand(first, second)
            for first in fitting
            for second in picture.shapes
        )
    return bool(fitting)


def maybe(values: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(sorted(values))


DESCRIPTIONS = st.builds(Description, kind=maybe(KINDS), colour=maybe(COLOURS), size=maybe(SIZES))
PLACED = st.builds(replace, DESCRIPTIONS, place=maybe(PLACES))
CLAIMS = st.one_of(
    st.builds(Predicate, PLACED, background=maybe(BACKGROUNDS)),
    st.builds(Predicate, PLACED, count=st.sampled_from(sorted(NUMBERS)), background=maybe(BACKGROUNDS)),
    st.builds(Predicate, PLACED, total=st.just(1), background=maybe(BACKGROUNDS)),
    st.builds(Predicate, DESCRIPTIONS, total=st.sampled_from([2, 3, 4]), background=maybe(BACKGROUNDS)),
    st.builds(
        Predicate,
        DESCRIPTIONS,
        relation=st.sampled_from(RELATIONS),
        other=DESCRIPTIONS,
        background=maybe(BACKGROUNDS),
    ),
)
SCENES = generate(HARD, 11, 60)


@given(st.lists(CLAIMS, max_size=20))
@settings(max_examples=50, deadline=None)
def test_truth_equals_a_claim_by_claim_and_picture_by_picture_look(claims: list[Predicate]) -> None:
    found = truth([wordings(claim)[0] for claim in claims], SCENES)
    expected = [[obviously_true(claim, picture) for picture in SCENES] for claim in claims]
    assert found.tolist() == expected
    assert found.dtype == bool


def test_truth_of_no_captions_or_no_scenes_is_empty() -> None:
    assert truth([], SCENES).shape == (0, 60)
    assert truth(["there is a circle", "a blue star and a star"], []).shape == (2, 0)


# Texts


@given(CLAIMS)
@settings(max_examples=200, deadline=None)
def test_every_wording_is_read_back_to_its_claim_cleaned_up_or_not(claim: Predicate) -> None:
    for text in wordings(claim):
        assert parse(text) == claim
        assert parse(clean_caption(text, 30)) == claim
        assert set(clean_caption(text, 30).split()) <= set(vocabulary())


def test_the_vocabulary_is_what_captions_are_made_of_and_no_more() -> None:
    scenes = generate(HARD.model_copy(update={"detail": 0.25}), 3, 1000)
    words = {word for picture in scenes for text in picture.captions for word in clean_caption(text, 30).split()}
    assert words == set(vocabulary())


# Generated scenes


@pytest.mark.parametrize("detail", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shapes", [(1, 1), (1, 3), (4, 4)])
def test_every_caption_is_true_of_its_own_scene_and_of_readable_length(detail: float, shapes: tuple[int, int]) -> None:
    params = DEFAULTS.model_copy(update={"detail": detail, "min_shapes": shapes[0], "max_shapes": shapes[1]})
    for picture in generate(params, 5, 40):
        assert truth(picture.captions, [picture]).all()
        assert all(4 <= len(caption.split()) <= 14 for caption in picture.captions)


def test_a_scene_has_as_many_captions_shapes_and_colours_as_asked_for() -> None:
    params = DEFAULTS.model_copy(update={"captions": 7, "min_shapes": 2, "max_shapes": 4, "colours": 3})
    scenes = generate(params, 5, 200)
    assert {len(picture.captions) for picture in scenes} == {7}
    assert {len(picture.shapes) for picture in scenes} == {2, 3, 4}
    assert {shape.colour for picture in scenes for shape in picture.shapes} == set(list(COLOURS)[:3])


def test_the_captions_of_a_scene_claim_different_things_where_it_allows_that() -> None:
    scenes = generate(DEFAULTS.model_copy(update={"min_shapes": 3, "max_shapes": 3, "detail": 0.5}), 5, 100)
    assert all(len({parse(caption) for caption in picture.captions}) == 5 for picture in scenes)


def test_more_captions_than_a_scene_has_claims_are_still_drawn() -> None:
    params = DEFAULTS.model_copy(update={"captions": 60, "detail": 0.0, "min_shapes": 1, "max_shapes": 1})
    (picture,) = generate(params, 5, 1)
    assert len(picture.captions) == 60
    assert truth(picture.captions, [picture]).all()


def test_the_same_seed_draws_the_same_scenes_on_every_machine() -> None:
    params = ScenesParams(
        seed=0, train=1, val=1, test=1, captions=5, size=64, min_shapes=1, max_shapes=3, colours=6, detail=0.5
    )
    assert generate(params, 1, 20) == generate(params, 1, 20)
    assert generate(params, 1, 2)[1] == Scene(
        background="white",
        shapes=(
            Shape("cross", "orange", "large", row=2, column=2, dx=0.02, dy=-0.036, shade=-1),
            Shape("heart", "green", "large", row=2, column=0, dx=-0.04, dy=0.046, shade=-15),
        ),
        captions=(
            "one large green heart on the left",
            "a picture of a cross and a green shape on a white background",
            "there are two shapes, one of them a heart on a white background",
            "there is an orange cross and a large green heart on a white background",
            "one cross on the right",
        ),
        shade=-16,
    )


def test_a_scene_does_not_depend_on_how_many_are_drawn() -> None:
    assert generate(DEFAULTS, 1, 3) == generate(DEFAULTS, 1, 30)[:3]


def test_a_description_is_all_but_jitter_and_order() -> None:
    for scene in generate(HARD, 9, 20):
        moved = [replace(shape, dx=0.01, dy=-0.01, shade=1) for shape in reversed(scene.shapes)]
        assert replace(scene, shapes=tuple(moved), shade=2, captions=()).description == scene.description
        first, *others = scene.shapes
        for change in ({"size": "large" if first.size == "small" else "small"}, {"row": (first.row + 1) % 3}):
            assert replace(scene, shapes=(replace(first, **change), *others)).description != scene.description


def test_where_all_descriptions_are_to_be_avoided_it_is_refused() -> None:
    few = DEFAULTS.model_copy(update={"max_shapes": 1, "colours": 2})
    everything = {
        Scene(background, (Shape(kind, colour, size, row, column, 0, 0, 0),), ()).description
        for background in BACKGROUNDS
        for kind in KINDS
        for colour in list(COLOURS)[:2]
        for size in SIZES
        for row in range(3)
        for column in range(3)
    }
    with pytest.raises(InputError, match=r"1 to 1 shapes of 2 colours.*raise max_shapes or colours"):
        generate(few, 1, 1, avoid=everything)
    left = everything - {generate(few, 1, 1)[0].description}
    assert generate(few, 1, 1, avoid=left) == generate(few, 1, 1)


def test_seeds_and_streams_have_no_scene_in_common() -> None:
    drawn = [*generate(DEFAULTS, 1, 50), *generate(DEFAULTS, 2, 50), *generate(DEFAULTS, 1, 50, stream="test")]
    assert len({json.dumps(picture.to_json()) for picture in drawn}) == 150


def test_more_detail_means_fewer_true_pictures() -> None:
    levels = [DEFAULTS.model_copy(update={"detail": detail}) for detail in (0.0, 0.5, 1.0)]
    means = [true_pictures_of_each_caption(params, 150).mean() for params in levels]
    assert means[0] > 2 * means[1] > 4 * means[2]


def test_at_the_defaults_a_caption_is_true_of_several_test_pictures_and_of_varied_numbers() -> None:
    pictures = true_pictures_of_each_caption(DEFAULTS, DEFAULTS.test)
    assert 3 <= pictures.mean() <= 12
    assert pictures.min() == 1
    assert (pictures == 1).mean() < 0.5
    assert (pictures >= 20).mean() > 0.01


# JSON


def test_a_scene_survives_json() -> None:
    for picture in generate(HARD, 9, 20):
        assert Scene.from_json(json.loads(json.dumps(picture.to_json()))) == picture
