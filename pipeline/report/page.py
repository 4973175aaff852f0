"""The report page: one file, no network, no inline style, and a policy that allows only its one script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.splits.format import Split
from pipeline.report.curves import Chart
from pipeline.report.gallery import Embedded, Group
from pipeline.report.pair_list import PairList
from pipeline.report.pictures import Picture, Pictures

TEMPLATES = Path(__file__).parent / "templates"
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
MARKS = {
    "own": "own",
    "true": "matches in truth",
    "false": "does not match",
    "unjudged": "not judged",
    "unknown": "not its own",
}


@dataclass(frozen=True)
class Contents:
    """The content of the page."""

    title: str
    facts: Sequence[tuple[str, str]]
    """Short name and value, shown at the top."""
    metrics: Mapping[str, Any]
    """Of `read_metrics`: `test` (the best weights) and `last`."""
    intervals: Mapping[str, Any]
    """`{"i2t": {"R1": [low, high], …}, "t2i": {…}, "rsum": [low, high]}`; may be empty."""
    published: Sequence[Mapping[str, Any]]
    """Rows with `method`, `i2t_R1` … `t2i_R10`, `source`, `remark`."""
    charts: Sequence[Chart]
    chart_note: str
    embedded: Embedded
    split_name: str
    groups: Sequence[Group]
    splits: Mapping[str, Split]
    """Of all pairs in the lists."""
    truth: str
    """Where the labels of the pairs come from; empty if there are none."""
    false_negatives: PairList
    suspects: PairList


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
        self._captions: list[list[str]] = [[] for _ in split.images]
        for caption, image in zip(split.captions, split.caption_image, strict=True):
            self._captions[image].append(caption)

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
    environment.filters |= {"percent": _percent, "figure": _figure, "count": _count}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = environment.get_template("body.html.j2").render(
        contents=contents,
        album=Album(contents.embedded.split, pictures),
        albums={name: Album(split, pictures) for name, split in contents.splits.items()},
        false_negatives=contents.false_negatives.rows(),
        suspects=contents.suspects.rows(),
        directions=DIRECTIONS,
        marks=MARKS,
    )
    return environment.get_template("page.html.j2").render(
        title=contents.title,
        body=body,
        pictures=pictures.all(),  # those that the body uses
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


def _count(value: int) -> str:
    return f"{value:,}".replace(",", " ")  # a thin space
