"""Stage `features`: the work on images and captions that is done once, before training."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from stages.command import stage
from stages.launch import started_together
from stages.recorded import check_recorded

if TYPE_CHECKING:
    from pipeline.params import ModelParams


@click.command(name="features")
@stage
def main() -> None:
    """Encode with frozen towers, or prepare images and tokens, into features; an interrupted run goes on."""
    from pipeline.params import load_params

    params = load_params()
    if started_together("features", params.launch.processes):
        return
    from pipeline.runtime.processes import process_group

    with process_group():
        _make(params.model)


def _make(model: ModelParams) -> None:
    from filelock import FileLock

    from pipeline.data.images import ImageArchive
    from pipeline.data.splits.format import SPLITS, read_split
    from pipeline.dependencies import checkpoint_folder
    from pipeline.features.make import make_features
    from pipeline.features.precision import precision_on
    from pipeline.files import digest_of, move_folder, sha256, write_json
    from pipeline.models import pretrained
    from pipeline.paths import BASE, FEATURES, IMAGES, SOURCE, SPLIT
    from pipeline.runtime.processes import own_device, wait_for_all

    paths = {name: SPLIT / f"{name}.json" for name in SPLITS}
    splits = {name: read_split(path) for name, path in paths.items()}
    inputs = [sha256(path) for path in (*paths.values(), SOURCE, BASE / "base.json")]
    archive = ImageArchive(IMAGES)
    # finished shards of an interrupted run are outside of the output, which DVC deletes before the stage
    precision = precision_on(own_device(), model.features_precision)  # another device may mean another
    key = digest_of(model.model_dump(), precision, inputs, archive.digest())  # other pictures may have the same names
    main = os.environ.get("RANK", "0") == "0"
    # queued experiments with the same features use the same folder, one after the other
    with FileLock(checkpoint_folder("features", key).with_suffix(".lock")) if main else nullcontext():
        wait_for_all()  # this experiment's other processes have no lock
        work = checkpoint_folder("features", key)  # an earlier experiment may have moved it away
        manifest = make_features(work, splits, archive, pretrained.load(BASE), model)
        if not main:
            return
        write_json(work / "features.json", manifest)
        check_recorded()
        move_folder(work, FEATURES)
    counts = ", ".join(f"{name} {rows['images']}/{rows['captions']}" for name, rows in manifest["rows"].items())
    click.echo(f"features for {model.train} (images/captions): {counts}; resize: {manifest['resize']}")


if __name__ == "__main__":
    main()
