"""YAML as plain values: no tag makes an object."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from pipeline.errors import InputError


def parse_yaml(text: str, path: Path | str) -> Any:
    """The value that `text`, which `path` is named for, stands for.

    Raises:
        InputError: for text that is no YAML, or that asks for an object.
    """
    from ruamel.yaml import YAML

    try:
        return YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # also a number that is none, a date of month 13, a key that is a list …
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


def shown(value: Any) -> str:
    """A value as written, cut short."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    short.maxlevel = 3
    try:
        return short.repr(value)[:400]
    except ValueError:  # a number of more digits than Python writes
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
