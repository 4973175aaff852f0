"""Write docs/results.md from the raw figures beside it: no number there is typed by hand.

python -m benchmarks.results
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.study import RECIPES, SEEDS
from pipeline.retrieval.recall import recall_names

if TYPE_CHECKING:
    import pandas

RAW = Path("docs/results")
PAGE = Path("docs/results.md")
NOTES = RAW / "notes"  # what a person says about a table; one Markdown file a study
RECALLS = recall_names("/")
TITLES = {
    "scenes": "Generated scenes",
    "cutdown": "Generated scenes: the cut-down threshold",
    "flickr8k": "Flickr8k, heads over frozen towers",
    "flickr8k-towers": "Flickr8k, small towers end to end",
    "scenes-noise": "Generated scenes with wrong pairs: CLIP and NPC",
    "flickr8k-noise": "Flickr8k with wrong pairs, heads over frozen towers",
}
NOISE = ", noise "  # between a method's name and the share of its captions that were shuffled


@click.command()
@click.option("--check", is_flag=True, help="only say whether the page is up to date")
def main(check: bool) -> None:
    """Write docs/results.md from docs/results/*.csv and docs/results/notes/*.md."""
    import pandas

    from pipeline.files import write_text

    parts = ["# Results\n", _file(NOTES / "introduction.md")]
    for study, title in TITLES.items():
        path = RAW / f"{study}.csv"
        if path.exists():
            runs = pandas.read_csv(path)
            table = _noise_table(runs) if runs["method"].str.contains(NOISE).all() else _table(runs)
            seeds = ",".join(str(seed) for seed in sorted(runs["seed"].unique()))
            parts += [f"## {title}\n", _file(NOTES / f"{study}.md"), table, _source(study, seeds)]
    page = "\n".join(part for part in parts if part)
    if not check:
        write_text(PAGE, page)
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        raise click.ClickException(f"{PAGE} is not what the CSV files say: python -m benchmarks.results")


def _table(runs: pandas.DataFrame) -> str:
    """Both tables of a study: recalls at the best validation, and best against last with the truth's figures."""
    methods = list(dict.fromkeys(runs["method"]))
    seeds = runs["seed"].nunique()
    recalls = [
        [method, *(_figure(runs, method, f"test/{name}") for name in RECALLS), _figure(runs, method, "test/rsum")]
        for method in methods
    ]
    first = methods[0]
    extra = {
        "test/truth/i2t/mAP_at_R": "i2t mAP@R",
        "test/truth/t2i/mAP_at_R": "t2i mAP@R",
        "test/posterior/auc": "posterior AUC",
        "sampler/false_negative_share": "true among sampled, %",
    }
    known = {name: title for name, title in extra.items() if runs[name].notna().any()}
    compared = [
        [
            method,
            _figure(runs, method, "test/rsum"),
            _difference(runs, first, method, "test/rsum"),
            _figure(runs, method, "last/rsum"),
            _difference(runs, first, method, "last/rsum"),
            *(_figure(runs, method, name, scale=100 if "share" in name else 1) for name in known),
        ]
        for method in methods
    ]
    columns = [name.replace("R", "R@") for name in recall_names(" ")]
    return (
        f"Test split, best validation, {_over(seeds)} (percent):\n\n"
        + _markdown(["method", *columns, "rsum"], recalls)
        + f"\nBest validation against last epoch; Δ is {first} less the row's method, over the same seeds:\n\n"
        + _markdown(["method", "rsum, best", "Δ", "rsum, last", "Δ", *known.values()], compared)
    )


def _noise_table(runs: pandas.DataFrame) -> str:
    """A method a row, a share of shuffled captions a column; then how well wrong pairs were told."""
    named = runs["method"].str.split(NOISE, expand=True)
    methods, shares = list(dict.fromkeys(named[0])), list(dict.fromkeys(named[1]))

    def rows(name: str) -> list[list[str]]:
        return [[method, *(_figure(runs, f"{method}{NOISE}{share}", name) for share in shares)] for method in methods]

    seeds = runs["seed"].nunique()
    header = ["method", *(f"noise {share}" for share in shares)]
    parts = [
        f"Test rsum, {_over(seeds)}, by the share of training captions that were shuffled; weights of the best "
        "validation:\n\n" + _markdown(header, rows("test/rsum")),
        "Weights of the last epoch:\n\n" + _markdown(header, rows("last/rsum")),
    ]
    for name, title in {
        "bank/clean_auc": "How well the bank tells wrong pairs from right ones before training (AUC of the clean "
        "probability; 0.5 is chance)",
        "pairs/weight_auc": "The same for the weights of the last epoch",
        "pairs/ratio_auc": "The same for the ratios r behind them",
    }.items():
        known = [row for row in rows(name) if any(cell != "–" for cell in row[1:])]
        if known:
            parts.append(f"{title}:\n\n" + _markdown(header, known))
    return "\n".join(parts)


def _over(seeds: int) -> str:
    return f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"


def _figure(runs: pandas.DataFrame, method: str, name: str, scale: float = 1) -> str:
    values = runs.loc[runs["method"] == method, name] * scale
    digits = 3 if "auc" in name else 1
    if values.empty or values.isna().any():
        return "–"
    return (
        f"{values.mean():.{digits}f} ± {values.std():.{digits}f}" if len(values) > 1 else f"{values.mean():.{digits}f}"
    )


def _difference(runs: pandas.DataFrame, first: str, method: str, name: str) -> str:
    if method == first:
        return ""
    by_seed = runs.set_index(["method", "seed"])[name]
    values = by_seed.loc[first] - by_seed.loc[method]
    return f"{values.mean():+.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.mean():+.1f}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _source(study: str, seeds: str) -> str:
    command = f"python -m benchmarks.study {study}" + ("" if seeds == SEEDS else f" --seeds {seeds}")
    before = f"`python -m commands.recipe {RECIPES[study]}`, a commit, and " if study in RECIPES else ""
    return f"\nRaw figures: [results/{study}.csv](results/{study}.csv), made by {before}`{command}`.\n"


def _file(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
