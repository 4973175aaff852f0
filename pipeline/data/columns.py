"""Which columns of a table hold the image, its captions and its split, and what a caption's cell holds."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.params import ColumnsParams

# The first one that a table has is taken.
IMAGE = (
    *("image", "file_name", "filename", "image_name", "filepath", "file_path", "image_path", "image_file", "file"),
    *("path", "img", "picture", "photo", "image_id", "img_id", "key"),
)
PIXELS = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "bytes", "content")
CAPTION = (
    *("caption", "captions", "text", "texts", "title", "comment", "raw", "sentence", "sentences", "txt", "description"),
    *("sentences_raw", "alt_text", "alt", "prompt"),
)
ANY = ColumnsParams(image=None, caption=None, split=None)


class Columns(NamedTuple):
    """Names of columns: the image's name, its captions (several if they are numbered), its split, its content."""

    image: str | None
    captions: tuple[str, ...]
    split: str | None
    pixels: str | None = None

    @property
    def complete(self) -> bool:
        """Whether there are an image and a caption."""
        return bool(self.captions) and (self.image is not None or self.pixels is not None)

    def __str__(self) -> str:
        image = " named by ".join(name for name in (self.pixels, self.image) if name)
        return f"image {image}, caption {', '.join(self.captions)}, split {self.split or 'not there'}"


def choose_columns(found: Sequence[str], wanted: ColumnsParams, pixels: Sequence[str] = ()) -> Columns:
    """The columns by name, or as `data.columns` names them; not `complete` where an image or a caption is missing.

    `pixels` are those that hold images themselves; where there are any, one of them is the image.
    """
    if any(name is not None and name not in found and not _numbered(found, name) for _, name in wanted):
        return Columns(None, (), None)
    captions = _captions(found, wanted.caption)
    content = _first(pixels, PIXELS) or next(iter(pixels), None)
    content = wanted.image if wanted.image in pixels else content
    names = [name for name in found if name not in (*pixels, *captions)]
    image = wanted.image if wanted.image in names else _first(names, IMAGE)
    return Columns(image, captions, wanted.split or _first(found, ("split",)), content)


def refusal(place: str, found: Sequence[str], wanted: ColumnsParams) -> str:
    """Why a table is refused: its columns, and those that are known or that `data.columns` names."""
    named = [f"{name} (data.columns.{key})" for key, name in wanted if name is not None]
    known = f"one for the image ({', '.join(IMAGE)}), one for the caption ({', '.join(CAPTION)}; numbered ones too)"
    expected = ", ".join(named) or f"{known} and, if wanted, split; data.columns can name others"
    return f"{place}: the columns are {listed(found)}; expected {expected}"


def listed(names: Sequence[str]) -> str:
    """At most thirty names, each at most forty characters long."""
    return ", ".join(name[:40] for name in names[:30]) + (", …" if len(names) > 30 else "") if names else "none"


def texts(value: Any) -> list[str]:
    """The captions in a cell: a text, a list, or a text that is a list in JSON's or Python's notation.

    Items may be lists, or objects with the text under `raw`, as in Karpathy's file, `caption` or `text`.
    """
    if isinstance(value, str):
        value = _as_list(value.strip())
    items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [text for item in items for text in (texts(item) if isinstance(item, (list, tuple)) else [_text(item)])]


def cell_text(value: Any) -> str:
    """A cell as text, stripped: "" for null and for NaN, which is how pandas and JSON write a missing one."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value).strip()


def _text(item: Any) -> str:
    if isinstance(item, dict):
        item = next((item[key] for key in ("raw", "caption", "text") if key in item), None)
    return cell_text(item)


def _as_list(text: str) -> Any:
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = _python_list(text)
    is_list = isinstance(items, list) and items and all(isinstance(item, (str, dict)) for item in items)
    return items if is_list else text  # "[two dogs]" is a caption


def _python_list(text: str) -> list[str] | None:
    """The texts of a list as Python or numpy prints it, numpy without commas; None for anything else."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text[1:-1]).readline))
        strings = [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]
    except (SyntaxError, ValueError, tokenize.TokenError):
        return None
    layout = (tokenize.STRING, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    return strings if all(token.type in layout or token.string == "," for token in tokens) else None


def _captions(found: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    if wanted is not None:
        return (wanted,) if wanted in found else _numbered(found, wanted)
    single = _first(found, CAPTION)
    return (single,) if single else next(filter(None, (_numbered(found, name) for name in CAPTION)), ())


def _numbered(found: Sequence[str], stem: str) -> tuple[str, ...]:
    """`caption_0`, `caption_1` … by number."""
    pattern = re.compile(rf"{re.escape(stem)}[ _]?(\d{{1,4}})", re.IGNORECASE)
    numbered = filter(None, map(pattern.fullmatch, found))
    return tuple(match[0] for match in sorted(numbered, key=lambda match: int(match[1])))


def _first(found: Sequence[str], names: Sequence[str]) -> str | None:
    known = {re.sub("[ -]", "_", name.strip().lower()): name for name in reversed(found)}
    return next((known[name] for name in names if name in known), None)
