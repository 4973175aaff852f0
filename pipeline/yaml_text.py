"""YAML as plain values: no tag makes an object, and no text takes longer to read than a params.yaml could."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

MOST_CHARACTERS = 1 << 18  # 30 times what params.yaml has; ruamel reads some 100 000 a second
MOST_BRACKETS = 200  # open ones cost ruamel the square of their number
MOST_ALIASES = 10  # each may stand for what holds others: thirty make thousands of millions
MOST_DEEP = 50  # lists in lists on one line
DASHES = re.compile(rf"(?:-[ \t]+){{{MOST_DEEP},}}")


def parse_yaml(text: str, path: Path | str) -> Any:
    """The value that `text`, which `path` is named for, stands for.

    Raises:
        InputError: for text that is no YAML, too long, too deep, or that asks for an object.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.tokens import AliasToken

    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{path}: {len(text)} characters, at most {MOST_CHARACTERS} are allowed")
    brackets = text.count("[") + text.count("{")
    if brackets > MOST_BRACKETS:
        raise InputError(f"{path}: {brackets} opening brackets, at most {MOST_BRACKETS} are allowed")
    if DASHES.search(text):
        raise InputError(f"{path}: more than {MOST_DEEP} lists in lists")
    try:
        if text.count("*") > MOST_ALIASES:  # comments may have some too
            aliases = sum(isinstance(token, AliasToken) for token in YAML(typ="safe", pure=True).scan(text))
            if aliases > MOST_ALIASES:
                raise InputError(
                    f"{path}: {aliases} times *NAME, for what &NAME names; at most {MOST_ALIASES} are allowed"
                )
        return YAML(typ="safe", pure=True).load(text)
    except InputError:
        raise
    except YAMLError as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except Exception as error:  # a number that is none, a date of month 13, a key that is a list …
        raise InputError(f"{path}: not readable as YAML: {type(error).__name__}: {error}") from None


def shown(value: Any) -> str:
    """A value as written, cut short: a few lines of aliases can stand for a gigabyte."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    short.maxlevel = 3
    try:
        return short.repr(value)[:400]
    except ValueError:  # a number of more digits than Python writes
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
