"""YAML as plain values; tags cannot make objects."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from pipeline.errors import InputError


def parse_yaml(text: str, path: Path | str) -> Any:
    """The value of `text`; errors name `path`.

    Raises:
        InputError: for text that is not YAML, or that has a tag for an object.
    """
    from ruamel.yaml import YAML

    try:
        return YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # also an invalid number, a date of month 13, a key that is a list …
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def shown(value: Any) -> str:
    """A value as text, shortened."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    short.maxlevel = 3
    try:
        return short.repr(value)[:400]
    except ValueError:  # a number with more digits than Python prints
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
