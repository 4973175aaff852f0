"""Copy to the MLflow server what it did not receive while stages ran (no DVC stage)."""

from __future__ import annotations

import click

from pipeline.errors import InputError, printable
from stages.command import stage


@click.command(name="sync")
@stage
def main() -> None:
    """Copy every run of this repository to the server that MLFLOW_TRACKING_URI names; twice changes nothing."""
    from filelock import Timeout

    from pipeline.tracking import Copier, reason

    copier, refused, said = Copier(), dict[str, None](), ""
    for run in copier.pending(every=True):
        try:
            complete = copier.copy(run.info.run_id, wait=0)
            said = "copied" if complete else "copied so far: its stage is running or was killed"
        except Timeout:
            said = "left alone: another process copies it"
        except Exception as error:  # one refused run does not stop the others
            why = f"MLflow at {copier.name}: {reason(error, copier.uri)}"
            if getattr(error, "error_code", "") == "INTERNAL_ERROR":  # an error of the server, or it is down
                raise InputError(f"{why}; nothing is lost, try again") from None
            said, refused[why] = "not copied", None
        click.echo(printable(f"{run.info.run_name}: {said}"))
    if refused:
        raise InputError("; ".join(refused))
    if not said:
        click.echo(f"nothing to copy: MLflow at {copier.name} has every run")


if __name__ == "__main__":
    main()
