"""How long a search takes over many images, into the section "Search" of docs/performance.md.

    python -m benchmarks.search --images 30000

Makes a folder as a training with `model.train: heads` leaves it: random features of that many images and five times as
many captions, heads over them, and towers of the sizes of ViT-B/16 and BERT-base from random weights. Then
`python -m commands.search --split all` is started twice and asked the same questions, one after the other: the first
time it encodes everything, the second time what it kept.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import click

from pipeline.dependencies import ROOT

FIGURES = Path("docs/results/performance.json")
CAPTIONS = 5  # an image
WIDTH, JOINT = 768, 1024
HELD_OUT = 1000  # images of the validation and of the test split each
WORDS = ("a", "small", "red", "dog", "runs", "over", "the", "green", "field", "with", "two", "children", "behind", "it")
QUESTIONS = [" ".join(WORDS[start:]) for start in range(len(WORDS) - 1)]
TOP = 10


@click.command()
@click.option("--images", default=30_000, show_default=True)
def main(images: int) -> None:
    """Measure, and keep the figures in docs/results/performance.json."""
    from benchmarks.performance import machine
    from pipeline.files import write_json

    with tempfile.TemporaryDirectory() as name:
        make(Path(name), images)
        runs = {kind: asked(Path(name)) for kind in ("encoded", "kept")}
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    figures["search"] = {"images": images, **runs, "machine": machine()}
    write_json(FIGURES, figures)
    click.echo(section(figures["search"]))


def make(folder: Path, images: int) -> None:
    """Everything that a search reads."""
    import torch
    from transformers import ViTConfig, ViTModel

    from pipeline.data.splits.format import Split, write_split
    from pipeline.features.shards import write_shards
    from pipeline.files import write_json
    from pipeline.models import pretrained
    from pipeline.models.build import make_model, save_trained
    from pipeline.models.normalisation import HALF
    from pipeline.models.pretrained import Pretrained
    from pipeline.models.quiet import silence_transformers
    from pipeline.models.small import small_text_backbone, word_tokenizer
    from pipeline.params import load_params
    from pipeline.paths import BASE, FEATURES, IMAGES, SPLIT, TRAINED
    from pipeline.recipes import Recipe, apply_recipe

    content = (ROOT / "params.yaml").read_text(encoding="utf-8")
    values = {"model.train": "heads", "model.image_size": 224, "model.width": JOINT}
    recipe = Recipe(Path("search"), "search", values)
    (folder / "params.yaml").write_text(apply_recipe(recipe, content), encoding="utf-8")
    model = load_params(folder / "params.yaml").model
    silence_transformers()
    torch.manual_seed(1)
    tokenizer = word_tokenizer(WORDS)
    tokenizer.model_max_length = 64
    text = small_text_backbone(vocabulary_size=30_522, width=WIDTH, layers=12, heads=12, positions=512)
    source = {side: {"name": "random", "revision": None} for side in ("image", "text")}
    base = Pretrained(
        ViTModel(ViTConfig(), add_pooling_layer=False), text, tokenizer, mean=HALF, std=HALF, source=source
    )
    pretrained.save(folder / BASE, base)
    save_trained(folder / TRAINED, make_model(base, model, feature_widths=(WIDTH, WIDTH)), model, base)
    (folder / IMAGES).parent.mkdir(parents=True)
    ZipFile(folder / IMAGES, "w").close()
    counts = {"train": images - 2 * HELD_OUT, "val": HELD_OUT, "test": HELD_OUT}
    for name, count in counts.items():
        rows = [(f"{name}{row}.jpg", [f"{word} {row}" for word in WORDS[:CAPTIONS]]) for row in range(count)]
        write_split(folder / SPLIT / f"{name}.json", Split.of(rows), one_row_a_caption=name == "train")
        for kind, number in (("images", count), ("captions", CAPTIONS * count)):
            write_shards(
                folder / FEATURES / name, kind, number, lambda part: {"feature": torch.randn(len(part), WIDTH)}, iter
            )
    shared = {"train", "image_size", "words", "captions", "features_dtype", "features_precision"}
    settings = model.model_dump(include=shared)
    write_json(folder / FEATURES / "features.json", settings | {"resize": "square", "pad": tokenizer.pad_token_id})


def asked(folder: Path) -> dict[str, float]:
    """Seconds from the start of the command to the first answer, and from a question to each later answer."""
    command = [sys.executable, "-m", "commands.search", "--split", "all", "--top", str(TOP)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begun, seconds = time.perf_counter(), list[float]()
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        for question in QUESTIONS:
            running.stdin.write(f"{question}\n")
            running.stdin.flush()
            for _ in range(TOP):
                if not running.stdout.readline():
                    raise click.ClickException("the search ended before it answered")
            seconds.append(time.perf_counter() - begun)
            begun = time.perf_counter()
        running.stdin.write("\n")
        running.stdin.flush()
    return {"first": seconds[0], "later": statistics.median(seconds[1:]), "longest": max(seconds[1:])}


def section(figures: dict[str, Any]) -> str:
    """The Markdown of the figures."""
    told = {"encoded": "the first time: all is encoded", "kept": "again: vectors are kept"}
    rows = "".join(
        f"| {what} | {figures[kind]['first']:.1f} | {figures[kind]['later']:.2f} | {figures[kind]['longest']:.2f} |\n"
        for kind, what in told.items()
    )
    return (
        f"## Search\n\n`python -m benchmarks.search --images {figures['images']}`: `python -m commands.search --split "
        f"all` over {figures['images']:,} images with random features, heads, and a text tower of BERT-base's size, on "
        f"{figures['machine']['processor']}, load {figures['machine']['load']} at the end. Seconds: from the start to "
        "the first answer, and of each later one.\n\n| | first answer | later ones, median | longest |\n"
        f"| --- | ---: | ---: | ---: |\n{rows}"
    )


if __name__ == "__main__":
    main()
