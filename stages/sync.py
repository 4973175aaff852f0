"""Send to MLflow what it could not take while stages ran (no DVC stage)."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="sync")
@stage
def main() -> None:
    """Send every record kept in .tracking to MLflow; sending twice changes nothing."""
    from pipeline.tracking import journals, send_patiently

    found = journals()
    if not found:
        click.echo("nothing to send: MLflow has every record")
    for journal in found:
        click.echo(f"{journal.path.name}: {send_patiently(journal)}")


if __name__ == "__main__":
    main()
