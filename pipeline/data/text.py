"""Texts that others published: UTF-8, as lines or as JSON, and an error that names the file."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pipeline.data.archives import BROKEN
from pipeline.errors import InputError
from pipeline.files import parse_json

MOST_TEXT_BYTES = 1 << 29  # three times MS-COCO's captions; what is in an archive has data.limits


def read_text(file: Traversable, label: str | None = None) -> str:
    """A file's text, UTF-8 with or without a mark.

    Raises:
        InputError: naming the file, if it is no UTF-8, too large, or its archive is damaged.
    """
    label = label or str(file)
    if isinstance(file, Path) and file.exists() and (size_bytes := file.stat().st_size) > MOST_TEXT_BYTES:
        raise InputError(f"{label}: {size_bytes} bytes; a text of at most {MOST_TEXT_BYTES} is read")
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: no UTF-8 text: {error}") from None
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise InputError(f"{label}: damaged: {error}") from None


def read_lines(file: Traversable) -> list[str]:
    """A text's lines, stripped; the empty one after the last line end is none."""
    # Not splitlines(): captions hold characters that it takes for line ends and the published readers do not.
    return [line.strip() for line in read_text(file).removesuffix("\n").split("\n")]


def read_json(file: Traversable, label: str | None = None) -> Any:
    """A file's JSON; errors as `read_text`, and for JSON that is cut off. `label` names it where its path would not."""
    return parse_json(read_text(file, label), label or str(file))
