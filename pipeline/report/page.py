"""The report page: one file, no network, no inline style, and a policy that allows only its one script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.splits.format import Split
from pipeline.files import digest_of
from pipeline.report.curves import Chart
from pipeline.report.findings import Listing, one_a_pair
from pipeline.report.judging import LEVELS, judgments_csv
from pipeline.report.labels import Labelled
from pipeline.report.pictures import Picture, Pictures
from pipeline.report.retrieval import Against, Retrieval

TEMPLATES = Path(__file__).parent / "templates"
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
MARKS = {
    "own": "own",
    "true": "matches in truth",
    "false": "does not match",
    "unjudged": "not judged",
    "unknown": "not its own",
}
PROBABILITIES = ("posterior", "probability")
"""Measures of a list by which a pair is listed where they are large; by all others where they are small."""


@dataclass(frozen=True)
class Statement:
    """One line of the page's head: a figure, and in words what it says."""

    figure: str
    words: str


@dataclass(frozen=True)
class Evaluated:
    """A trained run's metrics as in `metrics.json`, intervals or {}, published rows, and charts of the training."""

    metrics: Mapping[str, Any]
    intervals: Mapping[str, Any]
    published: Sequence[Mapping[str, Any]]
    charts: Sequence[Chart]
    chart_note: str


@dataclass(frozen=True)
class Contents:
    """The content of the page; what there is none of has no section."""

    title: str
    statements: Sequence[Statement]
    splits: Mapping[str, Labelled]
    truth: str
    """Where the labels of the pairs come from; empty if there are none."""
    false_negatives: Listing
    suspects: Listing
    footer: Sequence[tuple[str, str]]
    """What made the page: short name and value."""
    evaluated: Evaluated | None = None
    retrieval: Retrieval | None = None
    against: Against | None = None


@dataclass(frozen=True)
class Shown:
    """One image with its captions."""

    name: str
    captions: tuple[str, ...]
    picture: Picture

    @property
    def alt(self) -> str:
        """The alternative text of the image."""
        return f"Image {self.name}; its own caption: {self.captions[0]}"


class Album:
    """A split's images, for the page."""

    def __init__(self, split: Split, pictures: Pictures) -> None:
        self.split = split
        self._pictures = pictures
        self._captions = [captions for _, captions in split.pictures()]

    def image(self, row: int) -> Shown:
        """The image of this row."""
        name = self.split.images[row]
        return Shown(name, tuple(self._captions[row]), self._pictures.of(name))

    def caption(self, row: int) -> str:
        """The caption of this row."""
        return self.split.captions[row]

    def written_for(self, row: int) -> Shown:
        """The image that a caption was written for."""
        return self.image(self.split.caption_image[row])


def cards(listing: Listing, *, blind: bool = False) -> list[dict[str, Any]]:
    """A card for each picture of a list, in the order of its first pair: `split`, `image` and its `pairs`.

    Each pair has the `chance` by which the page's slider hides it. `blind`: a card for each of the pairs to judge next,
    without any number.
    """
    made: dict[Any, dict[str, Any]] = {}
    pairs = one_a_pair(listing) if blind else listing.pairs
    chosen = {pair[:3] for pair in listing.to_judge}
    for number, row in enumerate(pairs.rows()):
        name, image, caption = row["split"], row["image"], row["caption"]
        value = float(row[pairs.measure])
        chance = value if pairs.measure in PROBABILITIES else 1 - value
        row |= {
            "chance": chance,
            "stratum": listing.stratum(chance),
            "chosen": "proposed" if (name, image, caption) in chosen else "by hand",
        }
        card = made.setdefault(number if blind else (name, image), {"split": name, "image": image, "pairs": []})
        card["pairs"].append(row)
    return list(made.values())


def render_page(contents: Contents, pictures: Pictures) -> str:
    """The page as HTML. All text from a dataset is escaped: captions, names of images, titles."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    as_json = partial(json.dumps, separators=(",", ":"))
    environment.filters |= {"percent": _percent, "figure": _figure, "count": count, "json": as_json}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    found, wrong, splits = contents.false_negatives, contents.suspects, contents.splits
    body = environment.get_template("body.html.j2").render(
        contents=contents,
        albums={name: Album(labelled.split, pictures) for name, labelled in splits.items()},
        found_cards=cards(found),
        wrong_cards=cards(wrong),
        to_judge=cards(found, blind=True) + cards(wrong, blind=True),
        given=judgments_csv(splits),
        levels=LEVELS,
        directions=DIRECTIONS,
        marks=MARKS,
        key=digest_of([(name, one.split.images, one.split.captions) for name, one in splits.items()])[:16],
    )
    return environment.get_template("page.html.j2").render(
        title=contents.title,
        body=body,
        pictures=pictures.embedded(),  # those that the body uses
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _digest(text: str) -> str:
    """The hash source for a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _figure(value: float) -> str:
    """A similarity or probability: three decimals, or three significant digits if small."""
    return f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def count(value: float) -> str:
    """A whole number with narrow spaces between thousands, at which no line breaks."""
    return f"{round(value):,}".replace(",", "\u202f")
