"""docs/benchmark.md and its figure, from the tables of the benchmark: no number there is typed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.field_methods import BASELINE, CELLS, CLEAN, HARD, METHODS, NOUN, SHUFFLED, methods_of
from benchmarks.field_table import CONTRIBUTED, tables
from benchmarks.results import difference, markdown, mean, of_the_warm_up
from pipeline.comparison.paired import Difference, over_seeds
from pipeline.files import atomic_path
from pipeline.retrieval.published import TABLE, published

if TYPE_CHECKING:
    import pandas

PAGE = Path("docs/benchmark.md")
FIGURE = Path("docs/images/benchmark.svg")
NOTES = Path("docs/results/notes")  # what a person says: benchmark.md above the tables, benchmark-errors.md below
TITLES = {"field-flickr8k": "Flickr8k", "field-scenes": "generated scenes"}
PANELS = (("field-flickr8k", CLEAN), ("field-flickr8k", SHUFFLED), ("field-flickr8k", NOUN), ("field-scenes", HARD))
COLOURS = {"better": "#1b7837", "worse": "#b2182b", "unclear": "#888888"}
JUDGED = "best/judged/rsum"
SUMS = {"best/rsum": "rsum", JUDGED: "judged rsum"}
"""What is compared with the baseline."""
MATCHES = ("best/truth/i2t/mAP@R", "best/truth/t2i/mAP@R")
OF_LEARNED = {"NPC": "pairs/weight_auc", "NCR": "pairs/weight_auc", "CRCL": "pairs/weight_auc"}


def page(runs: pandas.DataFrame, results: Path) -> str:
    """The whole page."""
    parts = ["# Benchmark\n", _file(NOTES / "benchmark.md")]
    if len(runs):
        parts += [f"![Difference to {BASELINE} of every method](images/{FIGURE.name})\n", _winners(runs)]
    for study, cells in CELLS.items():
        for cell in cells:
            parts.append(_cell(runs, study, cell))
    parts += [_left_out(runs), _published(), _file(NOTES / "benchmark-errors.md"), _sources(runs, results)]
    return "\n".join(part for part in parts if part)


def final_of(runs: pandas.DataFrame, study: str, cell: str) -> pandas.DataFrame:
    """The final rows of a cell, with mAP@R of both directions together."""
    final = runs[(runs["study"] == study) & (runs["case"] == cell) & (runs["phase"] == "final")]
    return final.assign(mAP=final[list(MATCHES)].astype(float).mean(axis=1))


def against(final: pandas.DataFrame, method: str, column: str = "best/rsum") -> Difference | None:
    """The paired difference to the baseline; None where they have no seed in common."""
    table = final.pivot(index="seed", columns="method", values=column).astype(float)
    if method == BASELINE or not {method, BASELINE} <= set(table):
        return None
    pairs = table[[method, BASELINE]].dropna()
    return over_seeds(list(pairs[method]), list(pairs[BASELINE])) if len(pairs) else None


def _group(method: str) -> str:
    return METHODS[method].group if method in METHODS else "own"


def _told(final: pandas.DataFrame, method: str, column: str) -> str:
    """The difference to the baseline, and a mark where its interval leaves 0."""
    if (found := against(final, method, column)) is None:
        return ""
    mark = "" if not found.leaves_zero else " ▲" if found.value > 0 else " ▼"
    return difference(final, method, BASELINE, column) + mark


def _cell(runs: pandas.DataFrame, study: str, cell: str) -> str:
    final = final_of(runs, study, cell)
    methods = list(final["method"].unique())
    if not methods:
        return ""
    known = {name: against(final, name) for name in methods}
    methods.sort(key=lambda name: math.inf if (found := known[name]) is None else -found.value)
    methods.sort(key=lambda name: name != BASELINE)
    rows = [
        [
            name,
            _group(name),
            _chosen(runs, final, name),
            *(mean(final, name, column) for column in (*SUMS, "mAP")),
            _auc(final, name),
            f"{final.loc[final['method'] == name, 'processor_seconds'].astype(float).mean():.0f}",
            *(_told(final, name, column) for column in SUMS),
        ]
        for name in methods
    ]
    differences = [f"{name} − {BASELINE}" for name in SUMS.values()]
    header = ["method", "", "chosen", *SUMS.values(), "mAP@R", "AUC", "s", *differences]
    seeds = sorted(final.groupby("method")["seed"].nunique().unique())
    count = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    title = f"## {TITLES[study]}: {cell}\n\nMean over {count} and 95 % t-interval.\n\n"
    return title + markdown(header, rows, texts=3) + of_the_warm_up(final)


def _chosen(runs: pandas.DataFrame, final: pandas.DataFrame, method: str) -> str:
    """What validation chose of the method's own parameter: ↓ its lowest value, ↑ its highest, "any": all were equal."""
    first = final[final["method"] == method].iloc[0]
    same = (runs["study"] == first["study"]) & (runs["case"] == first["case"]) & (runs["method"] == method)
    tried = runs[same & (runs["phase"] == "tune")]
    settings = [json.loads(text) for text in tried["overrides"]]
    varied = [name for name in settings[0] if len({str(each[name]) for each in settings}) > 1] if settings else []
    if len(varied) != 1:
        return ""
    if tried["val_rsum"].nunique() == 1:
        return "any"
    values, chosen = [each[varied[0]] for each in settings], json.loads(first["overrides"])[varied[0]]
    if isinstance(chosen, str):
        return chosen
    edge = " ↓" if chosen == min(values) else " ↑" if chosen == max(values) else ""
    return f"{varied[0].rpartition('.')[2]} {chosen:g}{edge}"


def _auc(final: pandas.DataFrame, method: str) -> str:
    """Of the weights of pairs against the known noise, or of the posterior against true unpaired pairs."""
    if _group(method) == "t":
        return mean(final, method, OF_LEARNED.get(method, "trust/auc"))
    uses_evidence = method in METHODS and METHODS[method].overrides.get("sampler.posterior") == "evidence"
    return mean(final, method, f"best/{'evidence' if uses_evidence else 'posterior'}/auc")


def _winners(runs: pandas.DataFrame) -> str:
    rows = []
    for study, cells in CELLS.items():
        for cell in cells:
            final = final_of(runs, study, cell)
            for column, title in SUMS.items():
                pairs = ((name, against(final, name, column)) for name in final["method"].unique())
                found = {name: diff for name, diff in pairs if diff is not None}
                if not found:
                    continue
                better = sum(diff.leaves_zero and diff.value > 0 for diff in found.values())
                worse = sum(diff.leaves_zero and diff.value < 0 for diff in found.values())
                best = max(found, key=lambda name: found[name].value)
                counts = [str(better), str(len(found) - better - worse), str(worse)]
                rows.append([f"{TITLES[study]}: {cell}", title, best, _told(final, best, column), *counts])
    header = ["cell", "by", "highest", f"minus {BASELINE}", "clearly better", "not clear", "clearly worse"]
    return "## Which wins where\n\n" + markdown(header, rows, texts=3) if rows else ""


def _left_out(runs: pandas.DataFrame) -> str:
    """The methods of the broad table that have no final row in a cell."""
    lines = []
    for study, cells in CELLS.items():
        for cell in cells:
            there = set(final_of(runs, study, cell)["method"]) if len(runs) else set()
            absent = [name for name in methods_of(study, cell) if name not in there]
            lines += [f"- {TITLES[study]}, {cell}: {'; '.join(absent)}.\n"] if absent else []
    return "## What was left out\n\n" + (
        "Not run yet, of the broad table:\n\n" + "".join(lines) if lines else "Nothing.\n"
    )


def _published() -> str:
    rows = [
        [data, row.protocol, row.method, "?" if row.noise is None else f"{row.noise:g}", _sum(row.rsum), row.remark]
        for data, folds in (("flickr30k", 1), ("mscoco", 5), ("mscoco", 1))
        for row in published(data, folds)
    ]
    header = ["data", "protocol", "method", "noise", "rsum", "remark"]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---", "---", "---", "---:", "---:", "---"], *rows))
    where = f"[{TABLE.name}](../pipeline/retrieval/{TABLE.name})"
    title = (
        f"## Published figures\n\nOther data, towers and recipes: not comparable with the tables above. From {where}.\n"
    )
    return f"{title}\n{lines}"


def _sum(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _sources(runs: pandas.DataFrame, results: Path) -> str:
    links = ", ".join(
        f"[{path.name}](results/{f'{CONTRIBUTED}/' if path.parent.name == CONTRIBUTED else ''}{path.name})"
        for path in tables(results)
    )
    if not len(runs):
        return ""
    machines, codes = sorted(runs["machine"].unique()), runs["code"].nunique()
    mixed = "" if codes == 1 else f" **Made by {codes} versions of the code.**"
    return f"Raw results: {links}, by `python -m benchmarks.field run`, on {', '.join(machines)}.{mixed}\n"


def figure(runs: pandas.DataFrame, path: Path) -> None:
    """A panel for each cell of `PANELS`: every method's difference to the baseline with its interval, best on top."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = []
    for study, cell in PANELS:
        final = final_of(runs, study, cell)
        found = [(diff, name) for name in final["method"].unique() if (diff := against(final, name)) is not None]
        if found:
            panels.append((f"{TITLES[study]}: {cell}", sorted(found, key=lambda item: item[0].value)))
    if not panels:
        return
    tallest = max(len(found) for _, found in panels)
    sheet = Figure(figsize=(4.2 * len(panels), 1.2 + 0.22 * tallest), dpi=120, layout="constrained")
    for axes, (title, found) in zip(sheet.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for place, (diff, _) in enumerate(found):
            kind = "unclear" if not diff.leaves_zero else "better" if diff.value > 0 else "worse"
            bars = [[0.0], [0.0]] if math.isnan(diff.low) else [[diff.value - diff.low], [diff.high - diff.value]]
            axes.errorbar([diff.value], [place], xerr=bars, fmt="o", color=COLOURS[kind], markersize=5, capsize=2)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(found)), [name for _, name in found], fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"rsum minus {BASELINE}")
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    sheet.suptitle("Green: better than InfoNCE, red: worse, grey: not clear (95 % intervals over seeds)", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "benchmark"}), atomic_path(path) as temporary:  # the same rows, the same file
        sheet.savefig(temporary, format="svg", metadata={"Date": None})


def _file(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
