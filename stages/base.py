"""Stage `base`: the towers that every ablation starts from."""

from __future__ import annotations

import click

from stages.command import stage
from stages.launch import take_gpus


@click.command(name="base")
@stage
def main() -> None:
    """Fetch the towers that params.yaml names, or make small ones, into models/base."""
    from pipeline.params import load_params

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    take_gpus(1)
    from pipeline.base.links import link_local_towers
    from pipeline.base.towers import make_base
    from pipeline.data.splits.vocabulary import read_vocabulary
    from pipeline.files import atomic_folder
    from pipeline.models import pretrained
    from pipeline.paths import BASE, LOCAL_TOWERS, VOCABULARY

    link_local_towers(LOCAL_TOWERS, {"model.image": params.model.image, "model.text": params.model.text})
    made = make_base(params, read_vocabulary(VOCABULARY))
    with atomic_folder(BASE) as folder:
        pretrained.save(folder, made)
    names = {side: made.source[side]["name"] for side in ("image", "text")}
    click.echo(f"image tower: {names['image']}; text tower: {names['text']}")


if __name__ == "__main__":
    main()
