"""Print the last evaluation's recalls as a table (no DVC stage)."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="show")
@stage
def main() -> None:
    """Print metrics.json as a table, beside the published figures."""
    from rich.console import Console

    from pipeline.files import read_record
    from pipeline.params import load_params
    from pipeline.paths import INTERVALS
    from pipeline.report.recall_table import read_metrics
    from pipeline.report.tables import recalls_table
    from pipeline.retrieval.published import published

    params = load_params()
    metrics = read_metrics()
    intervals = read_record(INTERVALS) if INTERVALS.exists() else None
    Console().print(recalls_table(metrics, intervals, published(params.data.name, params.evaluate.folds)))


if __name__ == "__main__":
    main()
