"""The dataset's words and their counts, as written by stage `split`."""

from __future__ import annotations

from pathlib import Path


def read_vocabulary(path: Path) -> list[tuple[str, int]]:
    """Words and counts from lines `word<TAB>count`."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return [(word, int(count)) for word, count in rows]
