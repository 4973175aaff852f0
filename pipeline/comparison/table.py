"""A comparison as text: cells for the terminal, Markdown, LaTeX, and all numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence

from pipeline.comparison.paired import Difference
from pipeline.comparison.rows import Row
from pipeline.retrieval.uncertainty import LEVEL

Cells = list[list[str]]
GAP = 2  # characters between two columns of the terminal

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "–": "--",
    "−": r"$-$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def cells(rows: Sequence[Row], metrics: Sequence[str]) -> Cells:
    """A header and a line per row: varying parameters, number of seeds, mean ± std, the first metric's difference.

    The difference of a baseline's own row is "baseline"; a missing value is "–".
    """
    with_differences = [metric for metric in metrics if any(metric in row.differences for row in rows)]
    shown = with_differences[:1]  # intervals of all metrics would not fit a page; the CSV has them
    header = [*rows[0].varying, "seeds"]
    lines = [[*row.varying.values(), str(len(row.group.runs))] for row in rows]
    for metric in metrics:
        header.append(title(metric))
        for row, line in zip(rows, lines, strict=True):
            line.append(_mean(row, metric))
        if metric in shown:
            header.append(f"Δ {title(metric)}")
            for row, line in zip(rows, lines, strict=True):
                line.append(_difference(row, metric))
    return [header, *lines]


def blocks(table: Cells, width: int) -> list[Cells]:
    """Split the table into tables of at most `width` characters; each repeats the parameters."""
    fixed = table[0].index("seeds")
    widths = [max(len(line[column]) for line in table) + GAP for column in range(len(table[0]))]
    parts: list[list[int]] = [[]]
    for column in range(fixed, len(widths)):
        if parts[-1] and sum(widths[:fixed]) + sum(widths[c] for c in [*parts[-1], column]) > width:
            parts.append([])
        parts[-1].append(column)
    return [[[*line[:fixed], *(line[column] for column in part)] for line in table] for part in parts]


def explanation(rows: Sequence[Row]) -> list[str]:
    """The notes below the table: what its numbers are, a sentence per line."""
    said = ["Mean ± standard deviation over the seeds."]
    differences = [difference for row in rows for difference in row.differences.values()]
    methods = {difference.method for difference in differences}
    if any(difference.narrower for difference in differences):
        methods |= {"queries", "seeds"}
    level = f"{LEVEL:.0%}"
    if methods:
        said.append("Δ: difference from the baseline over the same seeds.")
    if "queries" in methods:
        said.append(
            f"Brackets: {level} interval of the paired bootstrap over the test queries (other queries, same seeds)."
        )
    if "seeds" in methods:
        said.append(f"{{Braces}}: {level} t-interval over the seeds (other seeds, same queries).")
        if "queries" not in methods:
            said.append(
                "No interval over the queries: the runs have other test queries, or keep no ranks.parquet, or the "
                "metric is no recall."
            )
    if methods - {"none"}:
        said.append("clear: the wider of the intervals does not contain 0; unclear: it does.")
    if "none" in methods:
        said.append("No interval: one common seed, and no ranks.parquet of the same queries.")
    return said


def title(metric: str) -> str:
    """`test/i2t/R1` as `i2t R@1`, without the test split's name."""
    return re.sub(r"/R(\d+)$", r" R@\1", metric.removeprefix("test/")).replace("_at_", "@").replace("/", " ")


def figure(value: float, metric: str) -> str:
    """Percentages with one decimal, others with four significant digits; "–" for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:.1f}" if _percent(metric) else f"{value:.4g}"


def markdown(table: Cells, parameters: int | None = None) -> str:
    """A GitHub table; columns after the first `parameters` (default: those before the seeds) are right-aligned."""
    parameters = table[0].index("seeds") if parameters is None else parameters
    rule = ["---" if column < parameters else "---:" for column in range(len(table[0]))]
    lines = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in line] for line in table]
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])


def latex(table: Cells) -> str:
    """A LaTeX tabular for the package booktabs."""
    parameters = table[0].index("seeds")
    columns = "l" * parameters + "r" * (len(table[0]) - parameters)
    lines = [" & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in line) + r" \\" for line in table]
    body = "\n".join(lines[1:])
    return (
        "% needs \\usepackage{booktabs}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def comma_separated(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Unrounded, for each metric: mean, std, difference, its bounds and the interval's method."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    parts = ("mean", "deviation", "difference", "low", "high", "interval")
    writer.writerow([*rows[0].varying, "seeds", *(f"{metric} {part}" for metric in metrics for part in parts)])
    for row in rows:
        figures: list[str] = []
        for metric in metrics:
            found = row.differences.get(metric)
            numbers = [row.group.mean(metric), row.group.deviation(metric), *(found[:3] if found else [math.nan] * 3)]
            figures += ["" if math.isnan(number) else repr(number) for number in numbers]
            figures.append(found.method if found else "")
        writer.writerow([*row.varying.values(), " ".join(sorted(row.group.runs, key=_by_number)), *figures])
    return content.getvalue()


def _percent(metric: str) -> bool:
    return bool(re.search(r"rsum$|/R\d+$|mAP_at_R$|R-P$", metric))


def _mean(row: Row, metric: str) -> str:
    mean, deviation = row.group.mean(metric), row.group.deviation(metric)
    return figure(mean, metric) if math.isnan(deviation) else f"{figure(mean, metric)} ± {figure(deviation, metric)}"


def _difference(row: Row, metric: str) -> str:
    if not row.differences:
        return "baseline" if row.is_baseline else "–"
    found = row.differences.get(metric)
    return "–" if found is None else _signed(found, metric)


def _signed(found: Difference, metric: str) -> str:
    def signed(number: float) -> str:
        return ("+" if number > 0 else "") + figure(number, metric).replace("-", "−")

    intervals = {found.method: (found.low, found.high)}
    if found.narrower is not None:
        intervals["seeds" if found.method == "queries" else "queries"] = found.narrower
    shown = signed(found.value)
    if found.method != "none":
        shown += " clear" if found.leaves_zero else " unclear"
    for method, (left, right) in (("queries", "[]"), ("seeds", "{}")):
        if method in intervals:
            low, high = intervals[method]
            shown += f" {left}{signed(low)}, {signed(high)}{right}"
    return shown


def _by_number(seed: str) -> tuple[int, str]:
    return (int(seed), "") if seed.isdigit() else (-1, seed)
