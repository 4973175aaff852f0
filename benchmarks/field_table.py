"""The tables of the benchmark: read, and checked row by row, so that somebody else's rows can be trusted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.field_methods import CELLS, METHODS
from benchmarks.studies import FINAL_SEEDS, STUDIES, TUNE_SEEDS
from benchmarks.trials import COLUMNS, IDENTITY
from pipeline.retrieval.recall import recall_names

if TYPE_CHECKING:
    import pandas

RAW = Path("docs/results")
CONTRIBUTED = "contributed"
FIRST = ("study", "case", "method", "phase", "seed", "overrides", "val_rsum", "seconds", "machine", "date", "code")
"""Columns that are filled in every row."""
SHARES = ("auc", "ap", "ece", "_share")
ADDED = 0.02  # percent; the sum of six rounded recalls may differ from the rounded sum by so much


def tables(results: Path) -> list[Path]:
    """The tables that exist: this project's, then contributed ones."""
    own = [path for name in CELLS if (path := results / f"{name}.csv").exists()]
    return own + sorted((results / CONTRIBUTED).glob("*.csv"))


def read_runs(results: Path) -> pandas.DataFrame:
    """All rows; `table` names the file that a row is from. Empty without a table."""
    import pandas

    frames = [
        pandas.read_csv(path, keep_default_na=False, na_values=[""], dtype={"case": str}).assign(table=path.name)
        for path in tables(results)
    ]
    return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame(columns=[*COLUMNS, "table"])


def check_rows(results: Path) -> list[str]:
    """What is wrong with the tables, a line for each problem: file, line, what was found and what is allowed."""
    problems: list[str] = []
    seen: dict[tuple[str, ...], str] = {}
    for path in tables(results):
        with open(path, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                problems.append(
                    f"{path}: no column {missing[0]!r}; write the table with `python -m benchmarks.field run`"
                )
                continue
            for number, row in enumerate(reader, 2):
                place = f"{path}, line {number}"
                problems += [f"{place}: {problem}" for problem in _problems(row, path.parent.name == CONTRIBUTED)]
                identity = tuple(row[name] for name in IDENTITY)
                if identity in seen:
                    problems.append(f"{place}: the same trial as {seen[identity]}")
                seen.setdefault(identity, place)
    return problems


def _problems(row: Mapping[str, str], contributed: bool) -> Iterator[str]:
    if None in row or None in row.values():
        yield "another number of fields than the header has"
        return
    for name in FIRST:
        if not row[name]:
            yield f"{name} is empty"
            return
    study, case, method = row["study"], row["case"], row["method"]
    if case not in CELLS.get(study, {}):
        yield f"study {study!r}, case {case!r}: allowed are {', '.join(f'{s}: {c}' for s in CELLS for c in CELLS[s])}"
        return
    if contributed and method in METHODS:
        yield f"method {method!r}: a name of this project's; choose another"
    if not contributed and method not in METHODS:
        yield f"method {method!r}: not in benchmarks/field_methods.py"
    seeds = {"tune": TUNE_SEEDS, "final": FINAL_SEEDS}.get(row["phase"])
    if seeds is None or row["seed"] not in map(str, seeds):
        yield f"phase {row['phase']!r}, seed {row['seed']!r}: allowed are tune {TUNE_SEEDS} and final {FINAL_SEEDS}"
    yield from _settings(row, study, case)
    for name, text in row.items():
        if text and (name.startswith(("best/", "last/")) or name in ("val_rsum", "seconds") or "auc" in name):
            yield from _range(name, text)
    if row["phase"] == "final":
        for part in ("best", "last"):
            yield from _sum(row, part)


def _settings(row: Mapping[str, str], study: str, case: str) -> Iterator[str]:
    """The data of the cell, and three values tried: what a row must not change."""
    try:
        overrides = json.loads(row["overrides"])
    except ValueError:
        overrides = None
    if not isinstance(overrides, dict):
        yield "overrides: not a JSON object"
        return
    fixed: dict[str, Any] = {name: value for name, value in STUDIES[study].settings.items() if _is_fixed(name)}
    fixed |= STUDIES[study].cases[case]
    if row["method"] in METHODS:  # one of them trains nothing
        fixed |= {name: value for name, value in METHODS[row["method"]].overrides.items() if name in fixed}
    for name, value in fixed.items():
        if overrides.get(name) != value:
            yield f"overrides: {name} = {overrides.get(name)!r}, the cell has {value!r}"
    for name in overrides:
        if name.startswith("data.") and name not in fixed:
            yield f"overrides: {name} changes the data of the cell"


def _is_fixed(name: str) -> bool:
    """Whether a setting of the study is the same for every method: data, towers and training."""
    return name.startswith(("data.", "train.")) and not name.startswith("train.warmup")


def _range(name: str, text: str) -> Iterator[str]:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    highest = 1.0 if name.endswith(SHARES) else 600.0 if name.endswith("rsum") else math.inf
    if name.endswith(tuple(recall_names("/"))) or name.endswith("mAP@R"):
        highest = 100.0
    if not 0 <= value <= highest:
        yield f"{name} = {text!r}: expected a number from 0 to {highest:g}"


def _sum(row: Mapping[str, str], part: str) -> Iterator[str]:
    try:
        recalls = [float(row[f"{part}/{name}"]) for name in recall_names("/")]
        total = float(row[f"{part}/rsum"])
    except ValueError:
        yield f"{part}: a final row has six recalls and their sum"
        return
    if abs(sum(recalls) - total) > ADDED:
        yield f"{part}/rsum = {total:g}, but the six recalls add up to {sum(recalls):g}"
