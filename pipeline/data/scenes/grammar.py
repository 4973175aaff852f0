"""The captions of generated scenes: their claims, their wordings, and the parser of their text.

What a caption claims, exactly:

- "a red circle": at least one shape of the picture is a red circle. What is not mentioned (here: size) may be anything;
  "a red shape" may be of any kind.
- "one red circle", "two red circles": exactly this many shapes of the picture are red circles; there may be others.
- "only a red circle": a red circle, and the picture holds no other shape.
- "three shapes, one of them a red circle": exactly three shapes, and at least one of them is a red circle.
- "a red circle and a small shape": two *different* shapes, one a red circle, the other one small.
- "a red circle above a small shape": both as before, and the first one's row is above the second one's; same for
  "below", "left of" and "right of" (columns). Shapes in the same row are neither above nor below one another.
- "on the left", "at the top", …: in that outer column or row of the 3×3 grid, corners included;
  "in the centre" is the middle cell, "in the top left corner" that cell.
- "on a grey background": the picture's background is grey.

All parts of a caption must be true. With a count, the place belongs to what is counted:
"two circles on the left" is true if exactly two circles are on the left, with any number of circles elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.data.captions import clean_caption
from pipeline.data.scenes.drawing import BACKGROUNDS, COLOURS, KINDS, RADIUS
from pipeline.errors import InputError

SIZES = tuple(RADIUS)
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
ANY_KIND = "shape"
PLURALS = {kind: "crosses" if kind == "cross" else f"{kind}s" for kind in (*KINDS, ANY_KIND)}
PLACES: dict[str, tuple[int | None, int | None]] = {  # phrase: row, column; None is any
    "at the top": (0, None),
    "at the bottom": (2, None),
    "on the left": (None, 0),
    "on the right": (None, 2),
    "in the centre": (1, 1),
    "in the top left corner": (0, 0),
    "in the top right corner": (0, 2),
    "in the bottom left corner": (2, 0),
    "in the bottom right corner": (2, 2),
}
RELATIONS = ("above", "below", "left of", "right of", "and")
LEADS = ("", "a picture of", "a drawing of", "there is")
MIN_WORDS, MAX_WORDS = 4, 14


@dataclass(frozen=True)
class Description:
    """The description of one shape; None: not mentioned. `place` is one of PLACES."""

    kind: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Predicate:
    """The claim of a caption about a picture (see the module's docstring).

    `count`: exactly this many shapes match `subject`; None: at least one. `relation` (one of RELATIONS) is to a
    different shape that matches `other`. `total`: the number of shapes in the picture. `background`: its colour.
    At most one of `count`, `relation` and `total` is given, and no `place` together with a relation or a total above 1:
    captions with more would be too long or unclear.
    """

    subject: Description
    count: int | None = None
    relation: str | None = None
    other: Description | None = None
    total: int | None = None
    background: str | None = None

    @property
    def has_wording(self) -> bool:
        """Whether the grammar has a text for this combination."""
        main_claims = [claim for claim in (self.count, self.relation, self.total) if claim is not None]
        crowded = self.relation is not None or (self.total or 1) > 1
        return len(main_claims) <= 1 and not (crowded and self.subject.place)


def wordings(predicate: Predicate) -> list[str]:
    """Every text for one predicate: the claim after each of LEADS, the one without a lead first."""
    body = _body(predicate)
    plural = (predicate.count or predicate.total or 1) > 1
    leads = [lead.replace("is", "are") if plural and lead == "there is" else lead for lead in LEADS]
    return [f"{lead} {body}".strip() for lead in leads]


def parse(caption: str) -> Predicate:
    """Parse a caption into its claim; case and punctuation are ignored, as for the text tower.

    Raises:
        InputError: for a text that is not in the grammar.
    """
    text = clean_caption(caption, words=2 * MAX_WORDS)
    match = _CAPTION.fullmatch(text)
    predicate = _predicate(match.groupdict()) if match else None
    # The pattern also matches wrong grammar ("two circle", "a orange star"): accept only texts that would be written.
    if predicate is None or not predicate.has_wording or text not in _cleaned_wordings(predicate):
        raise InputError(f"caption {caption[:80]!r}: not in the grammar of generated scenes, so its truth is not known")
    return predicate


def vocabulary() -> list[str]:
    """Every word that the grammar can produce, lower case, without punctuation, sorted."""
    phrases = [
        *(*LEADS, "there are", "a an only one of them on background"),
        *(*NUMBERS.values(), *SIZES, *COLOURS, *PLURALS, *PLURALS.values()),
        *(*PLACES, *RELATIONS, *BACKGROUNDS),
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def _cleaned_wordings(predicate: Predicate) -> list[str]:
    return [clean_caption(wording, words=2 * MAX_WORDS) for wording in wordings(predicate)]


def _body(predicate: Predicate) -> str:
    subject = _noun_phrase(predicate.subject, predicate.count)
    if predicate.total == 1:
        subject = f"only {subject}"
    elif predicate.total is not None:
        subject = f"{NUMBERS[predicate.total]} {PLURALS[ANY_KIND]}, one of them {subject}"
    parts = [subject, predicate.subject.place]
    if predicate.other is not None:
        parts += [predicate.relation, _noun_phrase(predicate.other, None)]
    if predicate.background is not None:
        parts.append(f"on a {predicate.background} background")
    return " ".join(part for part in parts if part)


def _noun_phrase(description: Description, count: int | None) -> str:
    noun = description.kind or ANY_KIND
    noun = PLURALS[noun] if count is not None and count > 1 else noun
    words = " ".join(word for word in (description.size, description.colour, noun) if word)
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article if count is None else NUMBERS[count]} {words}"


def _pattern() -> re.Pattern[str]:
    one_of = "|".join

    def noun_phrase(prefix: str) -> str:
        return (
            rf"(?:(?P<{prefix}size>{one_of(SIZES)}) )?(?:(?P<{prefix}colour>{one_of(COLOURS)}) )?"
            rf"(?P<{prefix}noun>{one_of((*PLURALS.values(), *PLURALS))})"
        )

    numbers = one_of(NUMBERS.values())
    return re.compile(
        rf"(?:(?:{one_of((*filter(None, LEADS), 'there are'))}) )?"
        rf"(?:(?P<only>only )|(?P<total>{numbers}) shapes one of them )?"
        rf"(?:an?|(?P<count>{numbers})) {noun_phrase('subject_')}(?: (?P<place>{one_of(PLACES)}))?"
        rf"(?: (?P<relation>{one_of(RELATIONS)}) an? {noun_phrase('other_')})?"
        rf"(?: on a (?P<background>{one_of(BACKGROUNDS)}) background)?"
    )


_CAPTION = _pattern()
_SINGULARS = {plural: kind for kind, plural in PLURALS.items()}
_VALUES = {word: number for number, word in NUMBERS.items()}


def _predicate(groups: dict[str, str | None]) -> Predicate:
    def description(prefix: str, place: str | None) -> Description:
        noun = groups[f"{prefix}noun"] or ANY_KIND
        kind = _SINGULARS.get(noun, noun)
        return Description(
            None if kind == ANY_KIND else kind, groups[f"{prefix}colour"], groups[f"{prefix}size"], place
        )

    total, count, relation = groups["total"], groups["count"], groups["relation"]
    return Predicate(
        subject=description("subject_", groups["place"]),
        count=_VALUES[count] if count else None,
        relation=relation,
        other=description("other_", None) if relation else None,
        total=1 if groups["only"] else _VALUES[total] if total else None,
        background=groups["background"],
    )
