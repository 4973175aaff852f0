"""Write docs/results.md and the README's table from the raw results in docs/results: no number there is typed by hand.

python -m benchmarks.results
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.earlier_results import earlier_table
from benchmarks.glance import README, at_a_glance
from benchmarks.studies import STUDIES, Study
from pipeline.retrieval.recall import recall_names

if TYPE_CHECKING:
    import pandas

RAW = Path("docs/results")
PAGE = Path("docs/results.md")
NOTES = RAW / "notes"  # what a person says about a table; one Markdown file a study
EARLIER = {
    "flickr8k-towers": "Flickr8k, small towers end to end",
    "scenes-noise": "Generated scenes with wrong pairs: CLIP and NPC",
}
TITLES = EARLIER | {name: study.title for name, study in STUDIES.items()}
ORDER = ("scenes", "scenes-equal", "cutdown", "flickr8k", "flickr8k-towers", "scenes-noise", "flickr8k-noise")
TRUTH = {
    "judged/rsum": "judged rsum",
    "truth/i2t/mAP@R": "i2t mAP@R",
    "truth/t2i/mAP@R": "t2i mAP@R",
    "posterior/auc": "posterior AUC",
    "evidence/auc": "evidence AUC",
    "sampler/false_negative_share": "true among sampled, %",
}
WARM_UP = 1  # epochs, where a trial does not change train.warmup_epochs
COMPARED = ("rsum", "judged/rsum", "truth/i2t/mAP@R", "truth/t2i/mAP@R")


@click.command()
@click.option("--check", is_flag=True, help="only say whether the page is up to date")
def main(check: bool) -> None:
    """Write docs/results.md and the README's table from docs/results/*.csv and docs/results/notes/*.md."""
    import pandas

    from pipeline.files import write_text

    parts = ["# Results\n", _file(NOTES / "introduction.md")]
    for name in ORDER:
        path = RAW / f"{name}.csv"
        if not path.exists():
            continue
        runs = pandas.read_csv(path, keep_default_na=False, na_values=[""], dtype={"case": str})
        tables = study_tables(STUDIES[name], runs) if "phase" in runs else earlier_table(runs)
        parts += [f"## {TITLES[name]}\n", _file(NOTES / f"{name}.md"), tables, _source(name, runs)]
    pages = {
        PAGE: "\n".join(part for part in parts if part),
        README: at_a_glance(RAW, README.read_text(encoding="utf-8")),
    }
    for path, page in pages.items():
        if not check:
            write_text(path, page)
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            raise click.ClickException(f"{path} is not what the CSV files say: python -m benchmarks.results")


def study_tables(study: Study, runs: pandas.DataFrame) -> str:
    """The tables of every case: the test split by best and by last weights, the paired differences, what was chosen."""
    runs = runs.assign(case=runs["case"].fillna(""))
    parts = []
    for case in study.cases:
        final = runs[(runs["case"] == case) & (runs["phase"] == "final")]
        methods = [
            name for method in study.methods for name in final["method"].unique() if _method(study, name) == method
        ]
        if not methods:
            continue
        baseline = next(iter(study.methods))
        parts.append(f"### {case[0].upper()}{case[1:]}\n" if case else "")
        for part, weights in (("best", "best validation"), ("last", "last epoch")):
            known = {name: title for name, title in TRUTH.items() if _is_shown(final, f"{part}/{name}")}
            header = ["method", *(name.replace("R", "R@") for name in recall_names(" ")), "rsum", *known.values()]
            names = [*recall_names("/"), "rsum", *known]
            rows = [[method, *(mean(final, method, f"{part}/{name}") for name in names)] for method in methods]
            title = f"Test split, {weights}; mean over {_seeds(final)} and 95 % t-interval:\n\n"
            parts.append(title + markdown(header, rows) + (of_the_warm_up(final) if part == "best" else ""))
        if baseline in methods and len(methods) > 1:
            compared = [
                (f"{part}/{name}", f"{title}, {part}")
                for name, title in {"rsum": "rsum", **TRUTH}.items()
                for part in ("best", "last")
                if name in COMPARED and _is_shown(final, f"{part}/{name}")
            ]
            rows = [
                [method, *(difference(final, method, baseline, column) for column, _ in compared)]
                for method in methods
                if method != baseline
            ]
            parts.append(
                f"Difference to “{baseline}” over the same seeds, and its paired 95 % t-interval:\n\n"
                + markdown(["method", *(title for _, title in compared)], rows)
            )
        parts.append(_tuning(study, runs[(runs["case"] == case) & (runs["phase"] == "tune")]))
    return "\n".join(part for part in parts if part)


def _is_shown(final: pandas.DataFrame, column: str) -> bool:
    """Whether some row has the metric; `judged/rsum`, which earlier versions did not have: whether all rows do."""
    there = final[column].notna()
    return bool(there.all() if column.endswith("judged/rsum") else there.any())


def _method(study: Study, name: str) -> str:
    """The method that a row is of: its name, then perhaps a comma and a variant."""
    return max((method for method in study.methods if f"{name}, ".startswith(f"{method}, ")), key=len, default="")


def _tuning(study: Study, runs: pandas.DataFrame) -> str:
    """What each method's best validation chose."""
    if runs.empty:
        return ""
    rows = []
    for method in study.methods:
        tried = runs[runs["method"] == method]
        if tried.empty:
            continue
        means = tried.groupby("overrides", sort=False)["val_rsum"].mean()
        chosen = json.loads(str(means.idxmax()))
        tuned = {name: chosen[name] for name in ("loss.temperature", "loss.margin", *study.grid) if name in chosen}
        settings = ", ".join(f"{name} {value:g}" for name, value in tuned.items())
        by = " by its warm-up" if _kept_early(tried[tried["overrides"] == means.idxmax()]).all() else ""
        rows.append([method, str(len(means)), f"{means.max():.1f}", f"{means.median():.1f}", f"`{settings}`{by}"])
    return "Chosen by the validation split (sum of its recalls), with another seed:\n\n" + markdown(
        ["method", "settings tried", "best", "median", "chosen"], rows
    )


def of_the_warm_up(final: pandas.DataFrame) -> str:
    """A paragraph that names the methods whose best validation was in the warm-up; empty if there is none."""
    early = final[_kept_early(final)].groupby("method", sort=False).size()
    told = [f"{method} ({count} of {(final['method'] == method).sum()} seeds)" for method, count in early.items()]
    if not told:
        return ""
    what = "Weights of the warm-up, which has the batch alone and the loss that `train.warmup` names"
    return f"\n{what}: {'; '.join(told)}.\n"


def _kept_early(runs: pandas.DataFrame) -> pandas.Series:
    """Whether the best validation of each row was in the warm-up."""
    epochs = runs["overrides"].map(lambda text: json.loads(text).get("train.warmup_epochs", WARM_UP))
    return runs["best_epoch"].astype(float) <= epochs


def _seeds(final: pandas.DataFrame) -> str:
    counts = sorted(final.groupby("method")["seed"].nunique().unique())
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def mean(final: pandas.DataFrame, method: str, column: str) -> str:
    """The mean over seeds, ± half of its 95 % t-interval."""
    from pipeline.comparison.paired import over_seeds

    values = final.loc[final["method"] == method].sort_values("seed")[column].dropna()
    if values.empty:
        return "–"
    scale, digits = _format(column)
    found = over_seeds([value * scale for value in values], [0.0] * len(values))
    half = "" if found.method == "none" else f" ± {(found.high - found.low) / 2:.{digits}f}"
    return f"{found.value:.{digits}f}{half}"


def difference(final: pandas.DataFrame, method: str, baseline: str, column: str) -> str:
    """The paired mean difference and its 95 % t-interval; bold where the interval leaves 0 out."""
    from pipeline.comparison.paired import over_seeds

    by_seed = final.set_index(["method", "seed"])[column]
    pairs = by_seed.loc[method].to_frame("ours").join(by_seed.loc[baseline].rename("theirs"), how="inner").dropna()
    if pairs.empty:
        return "–"
    scale, digits = _format(column)
    found = over_seeds(pairs["ours"] * scale, pairs["theirs"] * scale)
    interval = "" if found.method == "none" else f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    bold = "**" if found.leaves_zero else ""
    return f"{bold}{found.value:+.{digits}f}{bold}{interval}"


def _format(column: str) -> tuple[float, int]:
    """The factor and the digits with which a column is shown."""
    return (100, 1) if column.endswith("_share") else (1, 3) if column.endswith(("auc", "ap", "ece")) else (1, 1)


def markdown(header: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """A table whose first columns are text, the others numbers."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _source(name: str, runs: pandas.DataFrame) -> str:
    """Where the raw results are, what made them, and on what machine."""
    raw = f"\nRaw results: [results/{name}.csv](results/{name}.csv)"
    if "phase" not in runs:
        return f"{raw}.\n"
    machines, dates, codes = (sorted(runs[column].unique()) for column in ("machine", "date", "code"))
    each = f"{runs['processor_seconds'].mean():.0f} s of a processor each"
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    mixed = "" if len(codes) == 1 else f" **Made by {len(codes)} versions of the code.**"
    made = f"by `python -m benchmarks.study {name}`: {len(runs)} trials, {each}, on {', '.join(machines)}, {when}"
    return f"{raw}, {made}.{mixed}\n"


def _file(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
