"""Stage `download`: find or download the dataset, check it and pack it into data/raw."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="download")
@stage
def main() -> None:
    """Find or fetch the data set that params.yaml names and pack it into data/raw."""
    from pipeline.data.prepare import prepare
    from pipeline.files import atomic_folder
    from pipeline.params import load_params
    from pipeline.paths import RAW

    params = load_params().data
    with atomic_folder(RAW) as folder:
        lines = prepare(params, folder)
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()
