"""Stage `features`: what no training step needs to compute again."""

from __future__ import annotations

import click

from stages.command import stage


@click.command(name="features")
@stage
def main() -> None:
    """Encode with frozen towers, or prepare images and tokens, into features; an interrupted run goes on."""
    import shutil

    from filelock import FileLock

    from pipeline.data.images import ImageArchive
    from pipeline.data.splits import SPLITS, read_split
    from pipeline.files import digest_of, sha256, write_json
    from pipeline.models import pretrained
    from pipeline.params import load_params
    from pipeline.paths import BASE, FEATURES, IMAGES, SOURCE, SPLIT
    from pipeline.training.checkpoint import checkpoint_folder
    from pipeline.training.features import make_features

    model = load_params().model
    paths = {name: SPLIT / f"{name}.json" for name in SPLITS}
    splits = {name: read_split(path) for name, path in paths.items()}
    inputs = [sha256(path) for path in (*paths.values(), SOURCE, BASE / "base.json")]
    # what is finished of an interrupted run lies outside of the output, which DVC deletes before the stage
    key = digest_of(model.model_dump(), inputs)
    # queued experiments that need the same features work in the same place: one after the other
    with FileLock(checkpoint_folder("features", key).with_suffix(".lock")):
        work = checkpoint_folder("features", key)  # the one before has moved it away
        manifest = make_features(work, splits, ImageArchive(IMAGES), pretrained.load(BASE), model)
        write_json(work / "features.json", manifest)
        shutil.rmtree(FEATURES, ignore_errors=True)
        shutil.move(work, FEATURES)
    counts = ", ".join(f"{name} {rows['images']}/{rows['captions']}" for name, rows in manifest["rows"].items())
    click.echo(f"features for {model.train} (images/captions): {counts}")


if __name__ == "__main__":
    main()
