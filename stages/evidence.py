"""Stage `evidence`: what captions and frozen encoders say about pairs, before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stages.command import stage
from stages.launch import atomic_folder_of_all, started_together

if TYPE_CHECKING:
    from pipeline.params import Params


@click.command(name="evidence")
@stage
def main() -> None:
    """Find which unpaired pairs probably match and which pairs are probably wrong, into evidence; no labels needed."""
    from pipeline.params import load_params

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    if started_together("evidence", params.launch.processes):
        return
    from pipeline.runtime.processes import process_group

    with process_group():
        _make(params)


def _make(params: Params) -> None:
    from pipeline.base.links import link_local_towers
    from pipeline.data.splits.format import SPLITS, read_split
    from pipeline.data.splits.judgment_file import read_judged
    from pipeline.data.splits.truth_file import read_noise
    from pipeline.evidence.make import described, make_evidence
    from pipeline.evidence.vectors import write_vectors
    from pipeline.paths import EVIDENCE, FEATURES, IMAGES, LOCAL_ENCODERS, SPLIT
    from pipeline.runtime.processes import process_index, wait_for_all

    asked = params.evidence
    if process_index() == 0:
        link_local_towers(LOCAL_ENCODERS, {"evidence.image": asked.image, "evidence.text": asked.text})
    wait_for_all()
    splits = {name: read_split(SPLIT / f"{name}.json") for name in SPLITS}
    with atomic_folder_of_all(EVIDENCE) as folder:
        encoders = write_vectors(folder, splits, FEATURES, IMAGES, params)
        wait_for_all()
        record = make_evidence(
            folder, splits, FEATURES, params, encoders, read_noise(SPLIT), read_judged(SPLIT, "train")
        )
    for line in described(record) if process_index() == 0 else ():
        click.echo(line)


if __name__ == "__main__":
    main()
