"""Stage `split`: train, val and test in FNE's JSON format, with the truth if it is known."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="split")
@stage
def main() -> None:
    """Write data/split/{train,val,test}.json, the vocabulary, the noise and the truth from data/raw."""
    from pipeline.data.splits.partition import partition
    from pipeline.files import atomic_folder, users_file
    from pipeline.params import load_params
    from pipeline.paths import JUDGMENT_LINKS, RAW, SPLIT

    params = load_params().data
    judgments = None if params.judgments is None else users_file(params.judgments, "data.judgments")
    JUDGMENT_LINKS.mkdir(exist_ok=True)
    link = JUDGMENT_LINKS / "judgments.csv"  # dvc.yaml cannot name a file that params.yaml chooses
    link.unlink(missing_ok=True)
    if judgments is not None:
        link.symlink_to(judgments)
    with atomic_folder(SPLIT) as folder:
        lines = partition(RAW, params.split, params.noise, folder, params.judgments)
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()
