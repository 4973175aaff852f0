"""Find a parameter by a word, or a misspelt one by the nearest names (no DVC stage)."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.command import stage

if TYPE_CHECKING:
    from pipeline.report.parameters import Row

NEAREST = 3


@click.command(name="params")
@click.argument("word")
@stage
def main(word: str) -> None:
    """Print value, allowed values and meaning of the parameters with WORD in their name, else in their meaning.

    If there is none, WORD is taken for a misspelt name: then of the nearest ones.
    """
    from pipeline.params import load_params
    from pipeline.report.parameters import rows_of

    name = word.lstrip("+").partition("=")[0].strip().lower()  # as it stands after -S
    load_params()
    rows = rows_of(Path("params.yaml").read_text(encoding="utf-8"))
    found = [row for row in rows if name in row.name] or [row for row in rows if name in row.meaning.lower()]
    if not found:
        click.echo(f"no parameter {name}; the nearest names:")
        found = sorted(rows, key=lambda row: _likeness(name, row), reverse=True)[:NEAREST]
    for row in found:
        click.echo(f"{row.name} = {'null' if row.default is None else row.default}")
        click.echo(f"    {row.allowed.replace('`', '')}: {row.meaning}")


def _likeness(name: str, row: Row) -> float:
    """Of the whole dotted name or of its last part, 0 to 1."""
    return max(difflib.SequenceMatcher(None, name, part).ratio() for part in (row.name, row.name.rpartition(".")[2]))


if __name__ == "__main__":
    main()
