"""Generated scenes: small pictures of coloured shapes whose captions are predicates, so that every match is known.

A scene is made from a seed: one to four shapes in different cells of a 3×3 grid, on a plain background. Each of its
captions is a claim of `pipeline.data.scenes.grammar` that is true for it; `truth` computes for which other scenes it is
also true. Their number is the difficulty: it grows with the number of shapes, and falls with the number of colours and
with `detail`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from pipeline.data.scenes.drawing import BACKGROUNDS, COLOURS, GRID, KINDS, PLACE_JITTER, SHADE_JITTER, Shape, draw
from pipeline.data.scenes.grammar import (
    MAX_WORDS,
    MIN_WORDS,
    NUMBERS,
    PLACES,
    SIZES,
    Description,
    Predicate,
    parse,
    vocabulary,
    wordings,
)
from pipeline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from pipeline.params import ScenesParams

__all__ = ["Description", "Predicate", "Scene", "Shape", "generate", "generate_splits", "parse", "truth", "vocabulary"]

SCENE_TRIES = 1000  # draws for a scene that is not in `avoid`
CAPTION_TRIES = 20  # draws for a new claim about a scene, before a repeated one is taken
FORMS = ("exists", "exists", "exists", "count", "total", "relation", "relation", "relation")


@dataclass(frozen=True)
class Scene:
    """One picture and its captions; `shade` is the background's jitter (levels of 255)."""

    background: str
    shapes: tuple[Shape, ...]
    captions: tuple[str, ...]
    shade: int = 0

    @property
    def description(self) -> Hashable:
        """The scene without jitter: the background, and the shape in each cell."""
        shapes = frozenset((shape.kind, shape.colour, shape.size, shape.row, shape.column) for shape in self.shapes)
        return self.background, shapes

    def image(self, size: int) -> Image.Image:
        """The picture, RGB, `size` × `size` pixels; depends only on the scene."""
        return draw(self.shapes, self.background, self.shade, size)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes an equal scene."""
        return {
            "background": self.background,
            "shade": self.shade,
            "shapes": [asdict(shape) for shape in self.shapes],
            "captions": list(self.captions),
        }

    @staticmethod
    def from_json(content: Any) -> Scene:
        """Read what `to_json` made; raises pydantic's ValidationError, a ValueError, for something else."""
        return _SCENE.validate_python(content)


_SCENE = TypeAdapter(Scene)


def generate(
    params: ScenesParams, seed: int, count: int, stream: str = "", avoid: Collection[Hashable] = ()
) -> list[Scene]:
    """Make `count` scenes, the same on every machine; scene i depends only on i and on the arguments except `count`.

    Scenes of two streams (such as the splits) are independent for the same seed. No scene's description is in `avoid`.

    Raises:
        InputError: when `avoid` leaves no other description, or too few to find one.
    """
    # A string as seed is hashed (SHA-512), so that adjacent seeds and scenes are independent.
    return [_scene_but(params, random.Random(f"{stream}:{seed}:{index}"), avoid) for index in range(count)]


def generate_splits(params: ScenesParams) -> dict[str, list[Scene]]:
    """The scenes of `train`, `val` and `test`, one stream each: a larger split keeps its first scenes."""
    counts = {"train": params.train, "val": params.val, "test": params.test}
    return {split: generate(params, params.seed, count, stream=split) for split, count in counts.items()}


def truth(captions: Sequence[str], scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Whether each caption is true of each scene: (M, N), M captions, N scenes.

    Raises:
        InputError: naming a caption that is not in the grammar.
    """
    rows_of: dict[Predicate, list[int]] = {}
    predicate_of = {caption: parse(caption) for caption in dict.fromkeys(captions)}
    for row, caption in enumerate(captions):
        rows_of.setdefault(predicate_of[caption], []).append(row)
    table = _Table(scenes)
    true_MN = np.zeros((len(captions), len(scenes)), dtype=bool)
    for predicate, rows in rows_of.items():
        true_MN[rows] = table.holds_N(predicate)
    return true_MN


class _Table:
    """Scenes as arrays (N, S), N scenes with up to S shapes; -1 where a scene has fewer."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        slots = max(NUMBERS)

        def column_NS(values: list[list[int]]) -> NDArray[np.int8]:
            padded = [row + [-1] * (slots - len(row)) for row in values]
            return np.array(padded, dtype=np.int8).reshape(len(scenes), slots)

        kinds, colours = list(KINDS), list(COLOURS)
        self.kind_NS = column_NS([[kinds.index(shape.kind) for shape in scene.shapes] for scene in scenes])
        self.colour_NS = column_NS([[colours.index(shape.colour) for shape in scene.shapes] for scene in scenes])
        self.size_NS = column_NS([[SIZES.index(shape.size) for shape in scene.shapes] for scene in scenes])
        self.row_NS = column_NS([[shape.row for shape in scene.shapes] for scene in scenes])
        self.column_NS = column_NS([[shape.column for shape in scene.shapes] for scene in scenes])
        self.background_N = np.array([scene.background for scene in scenes], dtype=str)
        self.drawn_NS = self.kind_NS >= 0
        self.total_N = self.drawn_NS.sum(axis=1)
        row_NS1, row_N1S = self.row_NS[:, :, None], self.row_NS[:, None, :]
        column_NS1, column_N1S = self.column_NS[:, :, None], self.column_NS[:, None, :]
        self.related_NSS = {  # includes padding, which a description never matches
            "above": row_NS1 < row_N1S,
            "below": row_NS1 > row_N1S,
            "left of": column_NS1 < column_N1S,
            "right of": column_NS1 > column_N1S,
            "and": np.broadcast_to(~np.eye(slots, dtype=bool), (len(scenes), slots, slots)),
        }

    def holds_N(self, predicate: Predicate) -> NDArray[np.bool_]:
        """Whether each scene fulfils the predicate."""
        subject_NS = self._matches_NS(predicate.subject)
        if predicate.other is not None and predicate.relation is not None:
            other_N1S = self._matches_NS(predicate.other)[:, None, :]
            pair_NSS = subject_NS[:, :, None] & other_N1S & self.related_NSS[predicate.relation]
            true_N = pair_NSS.any(axis=(1, 2))
        elif predicate.count is not None:
            true_N = subject_NS.sum(axis=1) == predicate.count
        else:
            true_N = subject_NS.any(axis=1)
        if predicate.total is not None:
            true_N = true_N & (self.total_N == predicate.total)
        if predicate.background is not None:
            true_N = true_N & (self.background_N == predicate.background)
        return np.asarray(true_N, dtype=bool)

    def _matches_NS(self, description: Description) -> NDArray[np.bool_]:
        match_NS = self.drawn_NS
        if description.kind is not None:
            match_NS = match_NS & (self.kind_NS == list(KINDS).index(description.kind))
        if description.colour is not None:
            match_NS = match_NS & (self.colour_NS == list(COLOURS).index(description.colour))
        if description.size is not None:
            match_NS = match_NS & (self.size_NS == SIZES.index(description.size))
        if description.place is not None:
            row, column = PLACES[description.place]
            if row is not None:
                match_NS = match_NS & (self.row_NS == row)
            if column is not None:
                match_NS = match_NS & (self.column_NS == column)
        return match_NS


def _scene_but(params: ScenesParams, rng: random.Random, avoid: Collection[Hashable]) -> Scene:
    for _ in range(SCENE_TRIES):
        scene = _scene(params, rng)
        if scene.description not in avoid:
            return scene
    raise InputError(
        f"data.scenes: the splits have nearly every picture that {params.min_shapes} to {params.max_shapes} shapes of "
        f"{params.colours} colours make, so that base towers have none of their own to learn from; "
        "raise max_shapes or colours, lower train, or set base.epochs to 0"
    )


def _scene(params: ScenesParams, rng: random.Random) -> Scene:
    colours = list(COLOURS)[: params.colours]
    cells = rng.sample(range(GRID * GRID), rng.randint(params.min_shapes, params.max_shapes))
    shapes = tuple(
        Shape(
            kind=rng.choice(list(KINDS)),
            colour=rng.choice(colours),
            size=rng.choice(SIZES),
            row=cell // GRID,
            column=cell % GRID,
            dx=round(rng.uniform(-PLACE_JITTER, PLACE_JITTER), 3),
            dy=round(rng.uniform(-PLACE_JITTER, PLACE_JITTER), 3),
            shade=rng.randint(-SHADE_JITTER, SHADE_JITTER),
        )
        for cell in cells
    )
    background, shade = rng.choice(list(BACKGROUNDS)), rng.randint(-SHADE_JITTER, SHADE_JITTER)
    captions: list[str] = []
    claims: set[Predicate] = set()
    for _ in range(params.captions):
        for attempt in range(2 * CAPTION_TRIES):
            claim = _claim(shapes, background, params.detail, rng)
            texts = [text for text in wordings(claim) if MIN_WORDS <= len(text.split()) <= MAX_WORDS]
            text = rng.choice(texts)
            # A new claim if one is found; else the same claim in other words; else a repetition.
            if claim not in claims or (attempt >= CAPTION_TRIES and text not in captions):
                break
        claims.add(claim)
        captions.append(text)
    return Scene(background, shapes, tuple(captions), shade)


def _claim(shapes: Sequence[Shape], background: str, detail: float, rng: random.Random) -> Predicate:
    """Draw a claim that is true for the scene; each optional part is mentioned with probability `detail`."""

    def mentioned() -> bool:
        return rng.random() < detail

    subject = rng.choice(shapes)
    on_background = background if mentioned() else None
    form = rng.choice(FORMS if len(shapes) > 1 else FORMS[: FORMS.index("relation")])
    if form == "relation":
        other = rng.choice([shape for shape in shapes if shape is not subject])
        relation = rng.choice(_relations(subject, other))
        return Predicate(
            _description(subject, mentioned, rng),
            relation=relation,
            other=_description(other, mentioned, rng),
            background=on_background,
        )
    if form == "total" and len(shapes) > 1:
        return Predicate(_description(subject, mentioned, rng), total=len(shapes), background=on_background)
    # With a count, kind and colour are optional: "two shapes on a grey background".
    description = _description(subject, mentioned, rng, core=form != "count" or mentioned())
    if mentioned():
        description = replace(description, place=_place(subject, mentioned, rng))
    if form == "count":
        count = sum(_fits(shape, description) for shape in shapes)
        return Predicate(description, count=count, background=on_background)
    return Predicate(description, total=1 if form == "total" else None, background=on_background)


def _description(shape: Shape, mentioned: Callable[[], bool], rng: random.Random, core: bool = True) -> Description:
    """The description of a shape; with `core`, at least its kind or its colour."""
    named = rng.choice(("kind", "colour")) if core else None
    return Description(
        kind=shape.kind if named == "kind" or mentioned() else None,
        colour=shape.colour if named == "colour" or mentioned() else None,
        size=shape.size if mentioned() else None,
    )


def _place(shape: Shape, mentioned: Callable[[], bool], rng: random.Random) -> str:
    """A phrase for the shape's place; a corner is named with the probability of `mentioned`."""
    fitting = [phrase for phrase in PLACES if _is_at(shape, phrase)]
    exact = [phrase for phrase in fitting if None not in PLACES[phrase]]
    sides = [phrase for phrase in fitting if None in PLACES[phrase]]
    return rng.choice(exact if exact and (not sides or mentioned()) else sides)


def _is_at(shape: Shape, phrase: str) -> bool:
    row, column = PLACES[phrase]
    return row in (None, shape.row) and column in (None, shape.column)


def _fits(shape: Shape, description: Description) -> bool:
    return (
        description.kind in (None, shape.kind)
        and description.colour in (None, shape.colour)
        and description.size in (None, shape.size)
        and (description.place is None or _is_at(shape, description.place))
    )


def _relations(subject: Shape, other: Shape) -> list[str]:
    holds = {
        "above": subject.row < other.row,
        "below": subject.row > other.row,
        "left of": subject.column < other.column,
        "right of": subject.column > other.column,
        "and": True,
    }
    return [relation for relation, true in holds.items() if true]
