"""The dataset's words and their counts, as written by stage `split`."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import InputError


def read_vocabulary(path: Path) -> list[tuple[str, int]]:
    """Words and counts from lines `word<TAB>count`.

    Raises:
        InputError: when the file is missing, or naming an invalid line.
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
