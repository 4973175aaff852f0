"""A model card made from the run: data, method, metrics with intervals, licence, how to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparison.table import markdown
from pipeline.report.recall_table import HEADER
from pipeline.retrieval.recall import report_recalls


def model_card(
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    intervals: Mapping[str, Any] | None,
    source: Mapping[str, Any],
    towers: Mapping[str, Mapping[str, Any]],
    loading: Sequence[str],
    library: str,
    published: str | None = None,
) -> str:
    """A hub's README.md.

    Args:
        params: of the run, by dotted name.
        metrics: as in metrics.json.
        intervals: as in evaluation/intervals.json; None: not computed.
        source: as in data/raw/source.json.
        towers: name and revision of the image and of the text tower.
        loading: lines of Python.
        library: that loads the folder.
        published: whose weights were evaluated instead of a training; None: the run trained its own.
    """
    report = metrics["test"]
    table = [
        ["test split", *HEADER],
        ["recall", *(f"{value:.1f}" for value in [*report_recalls(report), report["rsum"]])],
    ]
    if intervals is not None:
        pairs = [*report_recalls(intervals), intervals["rsum"]]
        table.append(["95 % interval", *(f"{low:.1f} – {high:.1f}" for low, high in pairs)])
    noise = params["data.noise.file"] or params["data.noise.ratio"]
    method = {
        "loss": params["loss.name"],
        "negatives": f"{params['sampler.strategy']}, posterior from {params['sampler.posterior']}",
        "pair weights": params["pairs.weighting"],
        "trained": f"{params['model.train']}, {params['train.epochs']} epochs at most, seed {params['seed']}",
        "weights": "of the best validation",
        "wrong pairs added to the training split": noise or "none",
    }
    if published is not None:
        method = {"weights": f"{published}'s, as published; nothing was trained here"}
    origin = "".join(
        f"- {side} tower: `{told['name']}`, revision {told['revision'] or 'none'}\n" for side, told in towers.items()
    )
    folds = f" Means over {params['evaluate.folds']} folds." if params["evaluate.folds"] > 1 else ""
    return (
        f"---\nlibrary_name: {library}\npipeline_tag: zero-shot-image-classification\ntags: [image-text-retrieval]\n"
        "license: other\n---\n\n"
        f"# Image-text matching on {source.get('title', params['data.name'])}\n\n"
        f"{markdown(table, parameters=1)}\n\n"
        "R@K is the share of queries with a right answer among the first K, in percent (i2t: image to text); rsum is "
        f"their sum.{folds}\n\n## Method\n\n"
        + "".join(f"- {name}: {value}\n" for name, value in method.items())
        + origin
        + "\n## Data and licence\n\n"
        f"{source.get('title', params['data.name'])}. {source.get('licence', 'Licence: not known')}. The weights also "
        "fall under the licences of the towers that they started from.\n\n"
        "## Use\n\n```python\n" + "\n".join(loading) + "\n```\n\n"
        f"Made by `python -m commands.export --format {library}`.\n"
    )
