"""The results of a search as one page with its pictures inside; it needs no network and runs no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import write_text

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 320  # pixels of the longer side, at most
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Match:
    """An image of the split, the caption shown with it, and the similarity to the query."""

    name: str
    caption: str
    similarity: float


def write_search_page(
    path: Path,
    title: str,
    about: str,
    matches: Sequence[Match],
    picture: Callable[[str], Image],
    query: Image | None = None,
) -> None:
    """Write the page; all text is escaped.

    Args:
        path: of the page.
        title: the query.
        about: a sentence about what was searched.
        matches: best first.
        picture: gives an image by its name.
        query: the query picture, if the query is one.
    """
    from jinja2 import Environment, FileSystemLoader

    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("search.html.j2")
    shown = [(match, _inline(picture(match.name))) for match in matches]
    query_picture = None if query is None else _inline(query)
    write_text(path, template.render(title=title, about=about, matches=shown, query_picture=query_picture))


def _inline(image: Image) -> str:
    """A JPEG as a data: URI, at most `THUMBNAIL` pixels per side."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
