"""Copy to the MLflow server what it did not get while stages ran (no DVC stage)."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="sync")
@stage
def main() -> None:
    """Copy every run of this repository to the server that MLFLOW_TRACKING_URI names; twice changes nothing."""
    from pipeline.errors import printable
    from pipeline.tracking import copy_all

    for line in copy_all():
        click.echo(printable(line))


if __name__ == "__main__":
    main()
