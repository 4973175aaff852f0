"""What frozen towers cost, and what a lower precision changes: into the section "Frozen towers" of docs/performance.md.

    python -m benchmarks.frozen flickr8k-infonce -S data.root=… -S model.image=… -S model.text=…

Needs the data and the towers of a recipe with `model.train: heads`. Each speed is taken in a process of its own, since
the C library's settings are a process's; quality is that of the closed-form alignment (CCA) of the features.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.dependencies import ROOT

FIGURES = Path("docs/results/performance.json")
PREPARED = ROOT / "build/frozen"
ROWS = 256
WAYS = {
    "as before": "float32, freed memory returned to the system",
    "memory": "freed memory kept",
    "float32": "and channels last (`model.features_precision: float32`)",
    "bf16": "and bf16 (`model.features_precision: bf16`)",
}


@click.command()
@click.argument("recipe")
@click.option("-S", "--set", "given", multiple=True, help="NAME=VALUE for this machine, such as data.root")
@click.option("--way", type=click.Choice(list(WAYS)), help="measure this alone, in this process and folder")
def main(recipe: str, given: tuple[str, ...], way: str | None) -> None:
    """Measure, and keep the figures in docs/results/performance.json."""
    if way is not None:
        click.echo(json.dumps(speed(way)))
        return
    from benchmarks.performance import machine
    from pipeline.files import write_json

    os.environ["OMP_NUM_THREADS"] = "1"
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    rows, quality = compare(recipe, given)
    figures["frozen"] = {"recipe": recipe, "speed": rows, "quality": quality, "machine": machine()}
    write_json(FIGURES, figures)
    click.echo(section(figures["frozen"]))


def compare(recipe: str, given: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The speed of each way, and the quality of both precisions."""
    from benchmarks.preparation import folder_of, prepare
    from benchmarks.study import set_values
    from pipeline.data.splits.format import read_split
    from pipeline.evidence.alignment import fit_cca
    from pipeline.features.shards import all_features
    from pipeline.params import parse_params
    from pipeline.paths import FEATURES, SPLIT
    from pipeline.recipes import RECIPES, read_recipe
    from pipeline.retrieval.ranks import retrieval_ranks
    from pipeline.retrieval.recall import recalls
    from pipeline.yaml_text import parse_yaml

    content = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"), "params.yaml")
    set_values(content, {**read_recipe(recipe, ROOT / RECIPES).values, **dict(text.split("=", 1) for text in given)})
    params = {}
    for precision in ("float32", "bf16"):
        set_values(content, {"model.features_precision": precision})
        params[precision] = parse_params(content, recipe)
    prepare(PREPARED, params.values(), jobs=1)
    folders = {name: folder_of(PREPARED, one) for name, one in params.items()}
    rows = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.frozen", recipe, "--way", way]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=folders["float32"], env=environment, text=True, stdout=subprocess.PIPE, check=True
        )
        rows[way] = json.loads(done.stdout)
    quality: dict[str, Any] = {}
    for kind in ("images", "captions"):
        plain_NW, bf16_NW = (all_features(folders[name] / FEATURES / "test", kind) for name in ("float32", "bf16"))
        cosine_N = torch.cosine_similarity(plain_NW, bf16_NW, dim=1)
        quality[kind] = {"mean": float(cosine_N.mean()), "min": float(cosine_N.min())}
    for name, folder in folders.items():
        vectors = {
            part: [all_features(folder / FEATURES / part, kind) for kind in ("images", "captions")]
            for part in ("train", "test")
        }
        owner = {part: torch.tensor(read_split(folder / SPLIT / f"{part}.json").caption_image) for part in vectors}
        aligned = fit_cca(vectors["train"][0], vectors["train"][1], owner["train"])
        image_ND, text_MD = aligned.image(vectors["test"][0]), aligned.text(vectors["test"][1])
        quality[name] = recalls(*retrieval_ranks(image_ND, text_MD, owner["test"]))
    return rows, quality


def speed(way: str) -> dict[str, float]:
    """Rows a second of processor time, and the peak of memory, of the preparation in the working directory."""
    from pipeline.data.images import ImageArchive
    from pipeline.data.splits.format import read_split
    from pipeline.features.pixels import PixelSettings, encoded_images, square_pixels
    from pipeline.features.precision import in_precision
    from pipeline.features.tokens import encoded_captions
    from pipeline.models import pretrained
    from pipeline.models.clip import image_tower, text_tower
    from pipeline.models.normalisation import normalised
    from pipeline.params import load_params
    from pipeline.paths import BASE, IMAGES, SPLIT
    from stages.command import keep_memory

    if way != "as before":
        keep_memory()
    torch.set_num_threads(1)
    model, base, archive, cpu = load_params().model, pretrained.load(BASE), ImageArchive(IMAGES), torch.device("cpu")
    split = read_split(SPLIT / "test.json")
    pixels = PixelSettings(model.image_size, base.resize_by(model.resize), *base.normalisation(model.normalisation))
    precision: Any = "bf16" if way == "bf16" else "float32"
    image, text = image_tower(base.image).eval(), in_precision(text_tower(base.text, model.pooling).eval(), precision)

    @torch.inference_mode()
    def plain(names: list[str]) -> None:
        for start in range(0, len(names), 64):
            ready = [square_pixels(archive.decode(name), *pixels[:2]) for name in names[start : start + 64]]
            image(normalised(torch.stack(ready), *pixels[2:]))

    def ours(names: list[str]) -> None:
        encoded_images(image, cpu, archive, names, pixels, precision)

    def captions(rows: list[str]) -> None:
        encoded_captions(text, cpu, base.tokenizer, rows, model)

    names, sentences = list(split.images)[:ROWS], list(split.captions)[:ROWS]
    found = {
        "images/s": _rate(plain if way in ("as before", "memory") else ours, names),
        "captions/s": _rate(captions, sentences),
    }
    return found | {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def _rate(run: Callable[[list[str]], object], rows: list[str]) -> float:
    run(rows[:64])
    begun = time.process_time()
    run(rows)
    return len(rows) / (time.process_time() - begun)


def section(figures: dict[str, Any]) -> str:
    """The Markdown of the figures."""
    speed, quality = figures["speed"], figures["quality"]
    first = speed["as before"]
    lines = ["| | images/s | | captions/s | | peak GB |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for way, told in WAYS.items():
        cells = [
            f"{speed[way][kind]:.0f} | {speed[way][kind] / first[kind]:.1f} ×" for kind in first if kind != "peak GB"
        ]
        lines.append(f"| {told} | {' | '.join(cells)} | {speed[way]['peak GB']:.1f} |")
    lines += ["", "| | R@1, image to text | R@1, text to image | rsum |", "| --- | ---: | ---: | ---: |"]
    for name in ("float32", "bf16"):
        cells = [f"{quality[name][metric]:.2f}" for metric in ("i2t_R1", "t2i_R1", "rsum")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cosine = "; ".join(
        f"{kind} mean {quality[kind]['mean']:.5f}, lowest {quality[kind]['min']:.5f}" for kind in ("images", "captions")
    )
    processor = figures["machine"]["processor"]
    return (
        f"## Frozen towers\n\n`python -m benchmarks.frozen {figures['recipe']}`, on {processor}, one thread, from "
        "JPEG; rows a second of processor time. A page fault costs more in a virtual machine, as here, than on bare "
        "metal.\n\n"
        + "\n".join(lines[:6])
        + f"\n\nTest split by the closed-form alignment of the features, which has no randomness. Cosine of the "
        f"features in bf16 to those in float32: {cosine}.\n\n" + "\n".join(lines[7:]) + "\n"
    )


if __name__ == "__main__":
    main()
