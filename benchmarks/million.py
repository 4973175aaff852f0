"""What stages evidence, train and evaluate cost where there are many pairs: seconds, and memory at most.

    python -m benchmarks.million --images 20000 --images 200000 --images 1000000
    OMP_NUM_THREADS=1 python -m benchmarks.million --images 1000000 --processes 2

Makes synthetic features in float16 (images of topics, five captions each), with the recipe flickr8k-fne for one epoch;
validation and test have 1 000 and 5 000 images, as data sets of this field have. Prints rows of docs/scale.md.

    python -m benchmarks.million --near WORKSPACE

Compares the near clusters with all pairs, on the training split of a workspace in which stage evidence has run.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measuring import run_stage
from pipeline.data.splits.format import Split, read_split, write_split
from pipeline.evidence import kinds, near
from pipeline.evidence.listed import listed_pairs
from pipeline.evidence.table import open_evidence, read_pairs, read_posterior
from pipeline.features.shards import write_shards
from pipeline.files import write_text
from pipeline.paths import EVIDENCE, FEATURES, SPLIT
from pipeline.recipes import Recipe, apply_recipe, read_recipe

ROOT = Path(__file__).parents[1]
WIDTH = 256
CAPTIONS = 5  # of an image
PER_TOPIC = 8  # images
HELD_OUT = {"val": 1_000, "test": 5_000}
IMAGE_NOISE, CAPTION_NOISE, OWN = 1.0, 0.8, 0.1  # lengths of an image's, a caption's and a picture's own part
STAGES = ("evidence", "train", "evaluate")
CHANGED = {
    "data.name": "scenes",
    "data.scenes.train": 8,
    "data.scenes.val": 4,
    "data.scenes.test": 4,
    "base.epochs": 0,
    "model.image": None,
    "model.text": None,
    "model.features_dtype": "float16",
    "evaluate.truth": "none",
    "train.epochs": 1,
    "train.warmup_epochs": 0,
}
"""The earlier stages run on this, and their vectors are replaced."""


@click.command()
@click.option("--images", "sizes", multiple=True, default=(20_000,), type=click.IntRange(PER_TOPIC))
@click.option("--processes", default=1, type=click.IntRange(1), help="launch.processes")
@click.option(
    "--near", "workspace", type=click.Path(exists=True, file_okay=False, path_type=Path), help="a workspace, see above"
)
def main(sizes: tuple[int, ...], processes: int, workspace: Path | None) -> None:
    """Print a row for each number of training images and each stage: seconds, a processor's, GiB at most."""
    if workspace is not None:
        for row in found_by_clusters(workspace):
            click.echo(row)
        return
    changes = dict(read_recipe("flickr8k-fne", ROOT / "recipes").values) | CHANGED | {"launch.processes": processes}
    text = apply_recipe(Recipe(ROOT, "Many pairs", changes), (ROOT / "params.yaml").read_text(encoding="utf-8"))
    for images in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_text(folder / "params.yaml", text)
            for stage in ("download", "split", "base", "features", "evidence", "bank"):
                run_stage(stage, folder)
            write_synthetic(folder, {"train": images} | HELD_OUT)
            for stage in STAGES:
                seconds, busy, peak = run_stage(stage, folder)
                click.echo(f"| {stage} | {images} | {seconds:.0f} | {busy:.0f} | {peak / 2**30:.1f} |")


def found_by_clusters(workspace: Path) -> Iterator[str]:
    """By clusters that an image gets: the share of the listed pairs that are found, of all and of the probable ones."""
    split = read_split(workspace / SPLIT / "train.json")
    kinds_used, posterior = read_posterior(workspace / EVIDENCE)
    evidence = open_evidence(workspace / EVIDENCE, {"train": split}, "train", kinds_used)
    listed = read_pairs(workspace / EVIDENCE, "train", split)
    chance_P = torch.sigmoid(listed["log_ratio_P"].double() - math.log(posterior.prior - 1))
    kinds.LARGEST_TABLE = 0
    for near.PROBED in (8, 16, 24, 48):
        found = listed_pairs(evidence, posterior)
        key_P, found_P = (
            pairs["image_P"].long() * len(split.captions) + pairs["caption_P"] for pairs in (listed, found)
        )
        there_P = torch.isin(key_P, found_P).double()
        shares = [f"{100 * there_P[chance_P > least].mean():.1f} %" for least in (0, 0.1, 0.5)]
        yield f"| {near.PROBED} | {' | '.join(shares)} |"


def write_synthetic(folder: Path, images: dict[str, int]) -> None:
    """Replace the splits and the features in `folder`."""
    rotation_WW = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))).Q
    for seed, (name, count) in enumerate(images.items()):
        generator = torch.Generator().manual_seed(seed)
        topic_TW = _directions(-(-count // PER_TOPIC), generator)
        shown_NW = topic_TW.repeat_interleave(PER_TOPIC, 0)[:count] + OWN * _directions(count, generator)
        place = folder / FEATURES / name
        shutil.rmtree(place)

        def pictures(rows: range, shown_NW: Tensor = shown_NW, seed: int = seed) -> dict[str, Tensor]:
            shown_BW = shown_NW[rows.start : rows.stop]
            return {"feature": (_noisy(shown_BW, IMAGE_NOISE, (seed, 0, rows.start)) @ rotation_WW).half()}

        def sentences(rows: range, shown_NW: Tensor = shown_NW, seed: int = seed) -> dict[str, Tensor]:
            shown_BW = shown_NW[torch.arange(rows.start, rows.stop) // CAPTIONS]
            return {"feature": _noisy(shown_BW, CAPTION_NOISE, (seed, 1, rows.start)).half()}

        write_shards(place, "images", count, pictures, iter)
        write_shards(place, "captions", count * CAPTIONS, sentences, iter)
        named = [
            (f"{image}.jpg", [f"sentence {number} of {image}" for number in range(CAPTIONS)]) for image in range(count)
        ]
        write_split(folder / SPLIT / f"{name}.json", Split.of(named), one_row_a_caption=name == "train")


def _directions(rows: int, generator: torch.Generator) -> Tensor:
    return normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)


def _noisy(row_BW: Tensor, length: float, seeds: tuple[int, ...]) -> Tensor:
    """With an own direction of this length each; the same for a shard whenever it is made."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
    return row_BW + length * _directions(len(row_BW), generator)


if __name__ == "__main__":
    main()
