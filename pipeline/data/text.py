"""Read published texts: UTF-8, as lines or as JSON, with errors that name the file."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import Any

from pipeline.data.archives import BROKEN
from pipeline.errors import InputError
from pipeline.files import parse_json


def read_text(file: Traversable, label: str | None = None) -> str:
    """A file's text, UTF-8 with or without a byte order mark.

    Raises:
        InputError: naming the file, if it is not UTF-8 or its archive is damaged.
    """
    label = label or str(file)
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: no UTF-8 text: {error}") from None
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise InputError(f"{label}: damaged: {error}") from None


def read_lines(file: Traversable) -> list[str]:
    """A text's lines, stripped; without the empty one after the last line end."""
    # Not splitlines(): it splits at more characters than the published readers, and captions contain some of these.
    return [line.strip() for line in read_text(file).removesuffix("\n").split("\n")]


def read_json(file: Traversable, label: str | None = None) -> Any:
    """A file's JSON; raises as `read_text`, and for invalid JSON. Errors name `label`, or else the path."""
    return parse_json(read_text(file, label), label or str(file))
