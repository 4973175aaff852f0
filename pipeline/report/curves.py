"""The charts of a run, laid out from the tables that its stages wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report.charts import Chart, Line, line_chart

if TYPE_CHECKING:
    import pandas

SIMILARITY_COLUMNS = ("similarity", "matched", "unmatched", "posterior", "weight")
FALLS = 0.9  # of its height: a posterior that ends below that is worth a word
TRAINING = (
    # table, column, key, title, label of the axis
    ("history", "train/loss", "loss", "Training loss", "loss"),
    ("validation", "val_rsum", "validation", "Validation: sum of the six recalls", "rsum, percent"),
    ("history", "sampler/false_negative_share", "share", "Sampled negatives that match in truth", "share"),
)


def run_charts(
    similarity: pandas.DataFrame, history: pandas.DataFrame, validation: pandas.DataFrame, threshold: float
) -> list[Chart]:
    """The two similarity distributions with what FNE makes of them, then the training curves that the run has.

    Args:
        similarity: columns `similarity`, `matched`, `unmatched` (densities), `posterior`, `weight`.
        history: the training's record by `step`.
        validation: the validations' by `step`.
        threshold: at and below which candidates are cut down.
    """
    tables = {"history": history, "validation": validation}
    charts = [_similarity_chart(similarity, threshold)]
    for table, column, key, title, label in TRAINING:
        rows = tables[table]
        if column in rows:
            line = Line(title, list(rows["step"]), list(rows[column]), "plain")
            known = rows[column].dropna()
            said = f"From {known.iloc[0]:.4g} to {known.iloc[-1]:.4g}." if len(known) else ""
            zero = key == "share"
            charts.append(
                line_chart(f"chart-{key}", title, said, [line], x_label="step", y_label=label, from_zero=zero)
            )
    return [chart for chart in charts if chart is not None]


def posterior_note(similarity: pandas.DataFrame) -> str:
    """How far the posterior goes over the similarities that occur, and whether it falls again."""
    posterior, at = similarity["posterior"], similarity["similarity"]
    seen = similarity[(similarity["matched"] > 0) | (similarity["unmatched"] > 0)]
    highest = float(at.iloc[int(posterior.argmax())])
    note = f"The posterior reaches {posterior.max():.2g}, at similarity {highest:.2f}."
    beyond = seen[seen["similarity"] > highest]["posterior"]
    if len(beyond) and beyond.iloc[-1] < FALLS * posterior.max():
        note += (
            " It falls again above that: matched pairs spread less than their nearest mismatches here, and both are "
            "taken for normal. So the pairs of the highest posterior are not the most similar ones."
        )
    return note


def _similarity_chart(similarity: pandas.DataFrame, threshold: float) -> Chart | None:
    x = list(similarity["similarity"])
    lines = [
        Line("matched pairs", x, list(similarity["matched"]), "matched", filled=True),
        Line("nearest mismatches", x, list(similarity["unmatched"]), "unmatched", filled=True),
        Line("false-negative posterior", x, list(similarity["posterior"]), "posterior", right=True),
        Line("sampling weight", x, list(similarity["weight"]), "weight", right=True),
    ]
    return line_chart(
        "chart-similarity",
        "Similarity of captions to their own image and to the nearest other one",
        f"Densities with the false-negative posterior, FNE's sampling weight and the cut-down at {threshold:.2f}. "
        + posterior_note(similarity),
        lines,
        x_label="cosine similarity",
        y_label="density",
        size=(680, 330),
        from_zero=True,
        right_label="posterior, weight",
        marker=(threshold, f"cut-down at {threshold:.2f}"),
    )
