"""Send to MLflow what it could not take while stages ran (no DVC stage)."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="sync")
@stage
def main() -> None:
    """Send every record kept in .tracking to MLflow; sending twice changes nothing."""
    from pipeline.errors import InputError, printable
    from pipeline.tracking import journals, remove_leftovers, send_patiently

    remove_leftovers()
    found = journals()
    if not found:
        click.echo("nothing to send: MLflow has every record")
    refused: dict[str, None] = {}
    for journal in found:
        try:
            click.echo(printable(f"{journal.path.name}: {send_patiently(journal)}"))
        except InputError as error:  # one that cannot be sent keeps no other one here
            refused[str(error)] = None
    for reason in refused:
        click.secho(printable(f"error: {reason}"), err=True, fg="red")
    if refused:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
