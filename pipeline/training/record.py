"""A training's history as files: what DVC plots, and what evaluation needs to know about a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_text

PLACE = ("epoch", "step")


def write_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """One row a record; a figure that a record lacks stays empty. Wall-clock time is left out: the file repeats."""
    names = sorted({name for row in history for name in row} - {*PLACE, "time"})
    _write_rows(path, [*PLACE, *names], history)


def write_validations(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """The rows that hold validation recalls, as columns a plot can name: `val_rsum`, `val_i2t_R1` …"""
    rows = [{name.replace("/", "_"): value for name, value in row.items()} for row in history if "val/rsum" in row]
    names = sorted({name for row in rows for name in row if name.startswith("val_")})
    _write_rows(path, [*PLACE, *names], rows)


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, content.getvalue())
