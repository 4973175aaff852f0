"""Stage `split`: train, val and test in FNE's JSON format, with the truth if it is known."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="split")
@stage
def main() -> None:
    """Write data/split/{train,val,test}.json, the vocabulary, the noise and the truth from data/raw."""
    from pipeline.data.splits.partition import partition
    from pipeline.files import atomic_folder
    from pipeline.params import load_params
    from pipeline.paths import RAW, SPLIT

    params = load_params().data
    with atomic_folder(SPLIT) as folder:
        lines = partition(RAW, params.split, params.noise, folder)
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()
