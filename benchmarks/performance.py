"""Measure what everything costs, into docs/results/performance.json, and write docs/performance.md from it.

python -m benchmarks.performance                  # everything, some ten minutes; make bench
python -m benchmarks.performance losses ranking   # some groups; the other rows stay as they were measured
python -m benchmarks.performance --write          # the page alone, from the figures that are there
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks import frozen, gpu_table, search

GROUPS = ("losses", "heads", "ranking", "two_models", "towers", "commands", "laptop", "tracking")
FIGURES = Path("docs/results/performance.json")
PAGE = Path("docs/performance.md")
NOTES = Path("docs/results/notes/performance.md")


@click.command()
@click.argument("groups", nargs=-1, type=click.Choice(GROUPS))
@click.option("--write", is_flag=True, help="measure nothing; write the page from docs/results/performance.json")
@click.option("--check", is_flag=True, help="only say whether the page is what the figures say")
def main(groups: tuple[str, ...], write: bool, check: bool) -> None:
    """Take all figures, or those of some GROUPS, and write the page."""
    from pipeline.files import write_json, write_text

    figures: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    if not (write or check):
        import torch

        from stages.command import keep_memory

        keep_memory()  # as every stage does
        torch.set_num_threads(1)  # threads that wait for each other measure what else the machine is doing
        for group in groups or GROUPS:
            click.echo(group, err=True)
            module = importlib.import_module(f"benchmarks.{group}")
            rows = [asdict(row) for row in module.rows()]
            figures[group] = {"machine": machine(), "date": str(datetime.date.today()), "rows": rows}
            write_json(FIGURES, figures)
    page = page_of(figures)
    if not check:
        write_text(PAGE, page)
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        raise click.ClickException(f"{PAGE} is not what {FIGURES} says: python -m benchmarks.performance --write")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(memory / 1e9),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def page_of(figures: dict[str, Any]) -> str:
    """The Markdown page."""
    parts = ["# What it costs\n", NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""]
    header = ("what", "measure", "figure", "aim", "", "how")
    lines = [header, ("---", "---", "---:", "---", "---", "---")]
    for group in GROUPS:
        for row in figures.get(group, {}).get("rows", ()):
            met = {True: "met", False: "**missed**", None: ""}[row["met"]]
            lines.append((row["what"], row["measure"], _figure(row["value"]), row["aim"], met, row["remark"]))
    parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    if "steps" in figures:
        parts.append(_steps(figures["steps"]))
    if "frozen" in figures:
        parts.append(frozen.section(figures["frozen"]))
    if "search" in figures:
        parts.append(search.section(figures["search"]))
    if gpu_table.FIGURES.exists():
        parts.append(gpu_table.section())
    taken = [
        f"| `{group}` | {figures[group]['date']} | {_machine(figures[group]['machine'])} |\n"
        for group in GROUPS
        if group in figures
    ]
    parts.append("## Taken on\n\n| group | date | machine |\n| --- | --- | --- |\n" + "".join(taken))
    return "\n".join(parts)


def _steps(columns: dict[str, dict[str, float]]) -> str:
    """Where a step's time goes, by `python -m benchmarks.steps`."""
    names = list(dict.fromkeys(part for told in columns.values() for part in told))
    lines = [("milliseconds", *columns), ("---", *("---:" for _ in columns))]
    lines += [(name, *(f"{told[name]:.1f}" if name in told else "–" for told in columns.values())) for name in names]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        f"## Where a step's time goes\n\nThe default experiment, two epochs: `python -m benchmarks.steps`.\n\n{table}"
    )


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _machine(told: dict[str, Any]) -> str:
    gpu = told["gpu"] or "no GPU"
    return (
        f"{told['processor']}, {told['cores']} cores ({told['threads']} threads), {told['memory_gb']} GB, {gpu}; "
        f"Python {told['python']}, torch {told['torch']}; load {told['load']} at the end"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
