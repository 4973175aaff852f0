"""The benchmark of docs/benchmark.md: run its trials, write its page and figure, and check its tables.

    python -m benchmarks.field run -S data.root=… --jobs 2     # the broad table, three seeds
    python -m benchmarks.field run --seeds 5 --method InfoNCE --method "trust by evidence"    # these, in every cell
    python -m benchmarks.field write                           # docs/benchmark.md and its figure
    python -m benchmarks.field check                           # are the tables right, and the page theirs?

Trials are those of `benchmarks.study`, in this process: resumable, tuned on validation, without DVC and MLflow.
CONTRIBUTING.md says how a row of somebody else's is added.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.field_methods import CELLS, METHODS, Method
from benchmarks.field_page import FIGURE, PAGE, figure, page
from benchmarks.field_table import CONTRIBUTED, RAW, check_rows, read_runs
from benchmarks.studies import FINAL_SEEDS, STUDIES
from benchmarks.study import PREPARED, Driver
from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.yaml_text import parse_yaml


@click.group()
def main() -> None:
    """Compare the methods of the field on equal towers, data and tuning."""


@main.command()
@click.option("--study", "studies", multiple=True, type=click.Choice(list(CELLS)), help="default: both")
@click.option("--method", "methods", multiple=True, help="these alone, in every cell; default: the broad table")
@click.option("--only", default="", help="cells and methods whose 'cell: method' contains this text")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1, len(FINAL_SEEDS)))
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="processes")
@click.option("--phase", type=click.Choice(["tune", "final", "all"]), default="all", show_default=True)
@click.option("--results", default=RAW, type=click.Path(path_type=Path), help="folder of the tables")
@click.option("--prepared", default=PREPARED, type=click.Path(path_type=Path), help="folder of the preparations")
@click.option("-S", "--set", "given", multiple=True, help="NAME=VALUE for this machine, such as data.root; in no row")
@click.option("--limit", default=900, show_default=True, help="seconds for one trial")
@click.option("--own", help="the name of a method of your own: its rows go to contributed/NAME-STUDY.csv")
@click.option("--with", "changes", multiple=True, help="NAME=VALUE: what differs from InfoNCE in your method")
@click.option("--tune", default="", help="NAME=A,B,C: the three values that your method tries; default: temperatures")
def run(
    studies: tuple[str, ...],
    methods: tuple[str, ...],
    only: str,
    seeds: int,
    jobs: int,
    phase: str,
    results: Path,
    prepared: Path,
    given: tuple[str, ...],
    limit: int,
    own: str | None,
    changes: tuple[str, ...],
    tune: str,
) -> None:
    """Run the trials that have no row yet, and write their rows."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    failed = 0
    try:
        unknown = [name for name in methods if name not in METHODS]
        if unknown:
            raise InputError(f"--method {unknown[0]}: not one of {', '.join(METHODS)}")
        if own is not None and methods:
            raise InputError(f"--own {own}: runs this method alone; leave --method out")
        mine = None if own is None else _own_method(own, changes, tune)
        for name in studies or CELLS:
            path, study = results / f"{name}.csv", STUDIES[name]
            if own is not None and mine is not None:
                path = results / f"{CONTRIBUTED}/{own}-{name}.csv"
                study = replace(study, methods={own: mine.overrides}, own={own: mine.tries(name)}, broad={})
            path.parent.mkdir(parents=True, exist_ok=True)
            driver = Driver(name, path, prepared.resolve(), given, only, methods=methods, seeds=seeds, study=study)
            failed += driver.run_phases(phase, jobs, limit)
    except InputError as error:
        raise click.ClickException(str(error)) from None
    if failed:
        raise click.ClickException(f"{failed} trials failed; the same command runs them again")


def _own_method(name: str, changes: tuple[str, ...], tune: str) -> Method:
    """A method from the command line.

    Raises:
        InputError: for a name that is taken or no file name, for something else than NAME=VALUE, and for another number
            of values than three.
    """
    if name in METHODS or not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"--own {name}: expected a new name of letters, digits, - and _")
    overrides = dict(_assignment(text, "--with") for text in changes)
    if not tune:
        return Method("own", overrides)
    key, values = _assignment(tune, "--tune")
    tried = tuple(parse_yaml(f"[{values}]", "--tune"))
    if len(tried) != 3:
        raise InputError(f"--tune {tune}: {len(tried)} values, expected 3, as many as every method has")
    return Method("own", overrides, (key, tried))


def _assignment(text: str, option: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text}: expected NAME=VALUE")
    return name, value if option == "--tune" else parse_yaml(value, f"{option} {name}")


@main.command()
@click.option("--results", default=RAW, type=click.Path(path_type=Path), help="folder of the tables")
def write(results: Path) -> None:
    """Write docs/benchmark.md and its figure from the tables."""
    _checked(results)
    runs = read_runs(results)
    write_text(PAGE, page(runs, results))
    if len(runs):
        figure(runs, FIGURE)
    click.echo(f"{PAGE}: {len(runs)} trials")


@main.command()
@click.option("--results", default=RAW, type=click.Path(path_type=Path), help="folder of the tables")
def check(results: Path) -> None:
    """Check the tables' columns and values, and that the page is what they say."""
    _checked(results)
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page(read_runs(results), results):
        raise click.ClickException(f"{PAGE} is not what the tables say: python -m benchmarks.field write")


def _checked(results: Path) -> None:
    problems = check_rows(results)
    for problem in problems[:20]:
        click.echo(problem, err=True)
    if problems:
        raise click.ClickException(f"{len(problems)} problems in the tables")


if __name__ == "__main__":
    sys.exit(main())
