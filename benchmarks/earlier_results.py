"""Tables of the CSV files that were written before benchmarks/study.py had its present form.

To be deleted with the last of these files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.retrieval.recall import recall_names

if TYPE_CHECKING:
    import pandas

RECALLS = recall_names("/")
NOISE = ", noise "  # between a method's name and the share of its captions that were shuffled


def earlier_table(runs: pandas.DataFrame) -> str:
    """Both tables of a study, or those of a study of noise."""
    return _noise_table(runs) if runs["method"].str.contains(NOISE).all() else _table(runs)


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
