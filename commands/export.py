"""Write data/split as SCAN-style text, which SCAN's, NCR's and NPC's published code reads (no DVC stage)."""

from __future__ import annotations

from pathlib import Path

import click

from stages.command import stage


@click.command(name="export")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Made if missing."
)
@stage
def main(folder: Path) -> None:
    """Write data/split as {train,dev,test}_{ids,caps}.txt, with its noise where there is some."""
    from pipeline.data.splits.scan import write_scan
    from pipeline.files import read_record
    from pipeline.paths import SOURCE, SPLIT

    for line in write_scan(SPLIT, read_record(SOURCE, "download")["name"], folder):
        click.echo(line)


if __name__ == "__main__":
    main()
