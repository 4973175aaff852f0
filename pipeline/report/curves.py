"""The charts of a run, from the tables that its stages wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.figures import LINE, draw_similarity, svg_uri

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from pipeline.params import Params

SIMILARITY_COLUMNS = ("similarity", "matched", "unmatched", "posterior", "weight")
FALLS = 0.9  # a posterior that ends below this share of its maximum gets a remark
WIDE, NARROW = (4.6, 3.4), (4.6, 2.8)  # inches; on a phone, text shrinks by only a quarter
TRAINING = (
    # table, column, title, label of the axis
    ("history", "train/loss", "Training loss", "loss"),
    ("validation", "val_rsum", "Validation: sum of the six recalls", "rsum, percent"),
    ("history", "sampler/false_negative_share", "Sampled negatives that match in truth", "share"),
)
OTHER_POSTERIOR = (
    "The sampler of this run took its posterior from the evidence instead: the posterior and the weight drawn here "
    "are those of FNE's own rule."
)
OTHER_STRATEGY = (
    "The sampler of this run (sampler.strategy: {}) has neither this weight nor this cut-down: the posterior, "
    "the weight and the cut-down drawn here are those of FNE's own rule."
)
UNTRAINED = (
    "Nothing was trained and nothing sampled: the posterior, the weight and the cut-down drawn here are what FNE's own "
    "rule makes of the validation split's similarities."
)


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its title, a description, and an SVG as a data: URI."""

    title: str
    description: str
    uri: str
    wide: bool = False


def run_charts(
    similarity: pandas.DataFrame, history: pandas.DataFrame, validation: pandas.DataFrame, threshold: float
) -> list[Chart]:
    """The two similarity distributions with FNE's posterior and weight, then the training curves that the run has.

    Args:
        similarity: columns `similarity`, `matched`, `unmatched` (densities), `posterior`, `weight`.
        history: training metrics by `step`.
        validation: validation metrics by `step`.
        threshold: candidates at or below it are cut down.
    """
    figure = new_figure(WIDE)
    draw_similarity(figure, similarity, threshold)
    said = f"Densities with the false-negative posterior, FNE's sampling weight and the cut-down at {threshold:.2f}. "
    said += posterior_note(similarity)
    title = "Similarity of captions to their own image and to the nearest other one"
    charts = [Chart(title, said, svg_uri(figure), wide=True)]
    tables = {"history": history, "validation": validation}
    for table, column, title, label in TRAINING:
        rows = tables[table]
        known = rows.dropna(subset=[column]) if column in rows else rows[:0]
        if known.empty:
            continue
        values, figure = known[column], new_figure(NARROW)
        axes = figure.add_subplot()
        axes.plot(known["step"], values, color=LINE, marker="o" if len(known) == 1 else None)
        axes.set(xlabel="step", ylabel=label)
        if label == "share":
            axes.set_ylim(bottom=0)
        charts.append(Chart(title, f"From {values.iloc[0]:.4g} to {values.iloc[-1]:.4g}.", svg_uri(figure)))
    return charts


def rule_note(params: Params) -> str:
    """What the run had instead of FNE's rule, which the chart of the similarity draws; empty if it had this rule."""
    if params.train.epochs == 0 or params.model.weights is not None:
        return UNTRAINED
    if params.sampler.strategy != "fne":
        return OTHER_STRATEGY.format(params.sampler.strategy)
    return OTHER_POSTERIOR if params.sampler.posterior == "evidence" else ""


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of the page, of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def posterior_note(similarity: pandas.DataFrame) -> str:
    """The posterior's maximum over the similarities that occur, and whether it falls after it."""
    seen = similarity[(similarity["matched"] > 0) | (similarity["unmatched"] > 0)]
    posterior, at = seen["posterior"], seen["similarity"]
    highest = float(at.iloc[int(posterior.argmax())])
    note = f"The posterior reaches {posterior.max():.2g}, at similarity {highest:.2f}."
    beyond = posterior[at > highest]
    if len(beyond) and beyond.iloc[-1] < FALLS * posterior.max():
        note += (
            " It falls again above that: matched pairs spread less than their nearest mismatches here, and both are "
            "taken for normal. So the pairs of the highest posterior are not the most similar ones."
        )
    return note
