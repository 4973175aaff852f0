"""The data set's words and how often each occurs, as stage `split` counts them."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import InputError


def read_vocabulary(path: Path) -> list[tuple[str, int]]:
    """Words and counts, one `word<TAB>count` a line.

    Raises:
        InputError: when the file is missing, or naming the line that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `dvc repro split` makes it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as UTF-8: {error}") from None
    words = []
    for number, line in enumerate(lines, 1):
        word, _, count = line.partition("\t")
        if not word or not re.fullmatch("[0-9]{1,18}", count):
            raise InputError(f"{path}: line {number}: {line[:60]!r}, expected word<TAB>count")
        words.append((word, int(count)))
    return words
