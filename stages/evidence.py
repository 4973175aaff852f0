"""Stage `evidence`: what captions and frozen encoders say about pairs, before training."""

from __future__ import annotations

import click

from stages.command import stage
from stages.launch import take_gpus


@click.command(name="evidence")
@stage
def main() -> None:
    """Find which unpaired pairs probably match and which pairs are probably wrong, into evidence; no labels needed."""
    from pipeline.params import load_params

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    take_gpus(1)
    from pipeline.base.links import link_local_towers
    from pipeline.data.splits.format import SPLITS, read_split
    from pipeline.data.splits.judgment_file import read_judged
    from pipeline.data.splits.truth_file import read_noise
    from pipeline.evidence.make import described, make_evidence
    from pipeline.evidence.vectors import write_vectors
    from pipeline.files import atomic_folder
    from pipeline.paths import EVIDENCE, FEATURES, IMAGES, LOCAL_ENCODERS, SPLIT

    asked = params.evidence
    link_local_towers(LOCAL_ENCODERS, {"evidence.image": asked.image, "evidence.text": asked.text})

    splits = {name: read_split(SPLIT / f"{name}.json") for name in SPLITS}
    with atomic_folder(EVIDENCE) as folder:
        encoders = write_vectors(folder, splits, FEATURES, IMAGES, params)
        record = make_evidence(
            folder, splits, FEATURES, params, encoders, read_noise(SPLIT), read_judged(SPLIT, "train")
        )
    for line in described(record):
        click.echo(line)


if __name__ == "__main__":
    main()
