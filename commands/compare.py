"""Compare MLflow runs over their seeds (no DVC stage): a table, files for a paper, a plot."""

from __future__ import annotations

import fnmatch
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import InputError
from stages.command import stage

if TYPE_CHECKING:
    import pandas

    from pipeline.comparison.table import Cells

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(name="compare")
@click.option("--experiment", metavar="NAME", help="MLflow experiment; params.yaml's tracking.experiment by default.")
@click.option("--name", "names", multiple=True, metavar="GLOB", help="DVC experiment names, e.g. 'cut-*'.")
@click.option(
    "--where",
    "wheres",
    multiple=True,
    metavar="CONDITION",
    help="e.g. sampler.strategy=fne,hardest; also != < <= > >=.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="MLflow's, e.g. test/rsum; rsum and the six recalls by default.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="CONDITION",
    help="Differences from these runs, e.g. sampler.strategy=hardest.",
)
@click.option("--csv", "csv_path", type=FILE, help="Write every figure, unrounded.")
@click.option("--markdown", "markdown_path", type=FILE, help="Write the table as Markdown.")
@click.option("--latex", "latex_path", type=FILE, help="Write the table as LaTeX (booktabs).")
@click.option("--plot", "plot_path", type=FILE, help="Write the first metric against the varied parameter, PNG or SVG.")
@click.option("--x", "axis", metavar="NAME", help="The parameter to plot against, where several vary.")
@stage
def main(
    experiment: str | None,
    names: tuple[str, ...],
    wheres: tuple[str, ...],
    metrics: tuple[str, ...],
    baselines: tuple[str, ...],
    csv_path: Path | None,
    markdown_path: Path | None,
    latex_path: Path | None,
    plot_path: Path | None,
    axis: str | None,
) -> None:
    """Print runs that differ only in their seed as one row, best first: mean ± standard deviation, and the difference
    from a baseline.

    Conditions given several times hold all together.
    """
    from pipeline.comparison import figure as comparison_figure
    from pipeline.comparison import rows as comparison
    from pipeline.comparison import table as comparison_table
    from pipeline.comparison.conditions import parse_condition
    from pipeline.comparison.doubts import doubts
    from pipeline.files import write_text

    if plot_path is not None and plot_path.suffix not in comparison_figure.FORMATS:
        raise InputError(f"--plot {plot_path}: expected a name that ends in {' or '.join(comparison_figure.FORMATS)}")
    runs = _picked(experiment, names, wheres)
    chosen = list(metrics or comparison.METRICS)
    _check_metrics(chosen, runs)
    groups = comparison.grouped(runs)
    known = {name for run in runs for name in run["params"]}
    baseline = [parse_condition(text, known) for text in baselines]
    with tempfile.TemporaryDirectory() as folder:
        rows = comparison.compared(groups, baseline, chosen, _queries_reader(Path(folder)))
    if plot_path is not None:
        against = comparison_figure.axis_of(rows, axis)
        comparison_figure.comparison_figure(plot_path, rows, chosen[0], against)
    rows = comparison.by_result(rows, chosen[0])
    table = comparison_table.cells(rows, chosen)
    said = [*comparison_table.explanation(rows), *doubts(rows)]
    if csv_path is not None:
        write_text(csv_path, comparison_table.comma_separated(rows, chosen))
    if markdown_path is not None:
        write_text(markdown_path, comparison_table.markdown(table) + "\n" + " ".join(said) + "\n")
    if latex_path is not None:
        write_text(latex_path, comparison_table.latex(table))
    _print(table, [*_sameness(rows[0].varying, groups), *said])


def _picked(experiment: str | None, names: tuple[str, ...], wheres: tuple[str, ...]) -> list[dict[str, Any]]:
    """The matching runs, newest first; without one, an error that lists the available ones."""
    from pipeline.comparison.conditions import parse_condition
    from pipeline.params import load_params
    from pipeline.tracking import experiments, finished_runs, read_uri, without_password

    wanted = experiment or load_params().tracking.experiment
    runs = finished_runs(wanted)
    if not runs:
        there = ", ".join(experiments()) or "none"
        store = without_password(read_uri())
        raise InputError(f"no finished run in experiment {wanted!r} of {store}; experiments there: {there}")
    conditions = [parse_condition(text, {name for run in runs for name in run["params"]}) for text in wheres]
    named = [run for run in runs if not names or any(fnmatch.fnmatchcase(_name(run), glob) for glob in names)]
    if not named:
        there = ", ".join(sorted({_name(run) for run in runs if _name(run)})) or "none: all came from dvc repro"
        raise InputError(f"--name {' '.join(names)}: no run of {len(runs)} has such a name; names there: {there}")
    kept = [run for run in named if all(condition.holds(run["params"]) for condition in conditions)]
    if not kept:
        found = {c.name: sorted({run["params"].get(c.name, "–") for run in named}) for c in conditions}
        there = "; ".join(f"{name} is {', '.join(values)}" for name, values in found.items())
        raise InputError(f"--where {' '.join(wheres)}: fits none of {len(named)} runs; {there}")
    return kept


def _name(run: dict[str, Any]) -> str:
    return str(run["tags"].get("dvc.experiment", ""))


def _check_metrics(metrics: list[str], runs: list[dict[str, Any]]) -> None:
    there = sorted({name for run in runs for name in run["metrics"]})
    for metric in metrics:
        if metric not in there:
            raise InputError(f"--metric {metric}: none of these runs has it; they have {', '.join(there)}")


def _queries_reader(folder: Path) -> Callable[[str], pandas.DataFrame | None]:
    """Reads a run's ranks.parquet once; None if it has none."""

    @functools.cache
    def queries(run_id: str) -> pandas.DataFrame | None:
        from pipeline.comparison.paired import read_queries
        from pipeline.tracking import run_file

        place = folder / run_id
        place.mkdir()
        path = run_file(run_id, "ranks.parquet", place)
        return None if path is None else read_queries(path, f"ranks.parquet of run {run_id}")

    return queries


def _sameness(varying: Any, groups: list[Any]) -> list[str]:
    runs = sum(len(group.runs) for group in groups)
    told = "" if varying else " They differ in nothing but the seed."
    return [f"{runs} runs, {len(groups)} row{'s' * (len(groups) > 1)}.{told}"]


def _print(table: Cells, said: list[str]) -> None:
    """With rich on a terminal, else tab-separated."""
    if not sys.stdout.isatty():
        for row in table:
            click.echo("\t".join(row))
        for sentence in said:
            click.echo(sentence, err=True)
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pipeline.comparison.table import blocks

    console = Console()
    first_figure = table[0].index("seeds")
    for block in blocks(table, console.width):
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column, name in enumerate(block[0]):
            shown.add_column(escape(name), justify="left" if column < first_figure else "right", overflow="fold")
        for row in block[1:]:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for sentence in said:
        console.print(sentence, markup=False, highlight=False, style="dim")


if __name__ == "__main__":
    main()
