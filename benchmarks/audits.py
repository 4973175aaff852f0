"""What an audit finds: wrong captions planted into Flickr8k, and false negatives against its human judgments.

    python -m benchmarks.audits planted --root FLICKR8K [--pictures 300] [--wrong 60] [--seeds 5] -- OPTIONS
    python -m benchmarks.audits judged  --root FLICKR8K -- OPTIONS

`--root` holds Flickr8k's two archives; OPTIONS are those of `commands.audit`, for example local encoders. Figures and
the commands that made them: docs/audit.md.
"""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import click
import pandas

FIRST = (20, 60, 200)


@click.group()
def main() -> None:
    """Measure `commands.audit` on Flickr8k."""


@main.command()
@click.option("--root", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--pictures", default=300, show_default=True)
@click.option("--wrong", default=60, show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.argument("options", nargs=-1)
def planted(root: Path, pictures: int, wrong: int, seeds: int, options: tuple[str, ...]) -> None:
    """Pass the captions of some pictures round, and count them among the first of the list of wrong pairs."""
    captions, images = _published(root)
    for seed in range(1, seeds + 1):
        draw = random.Random(seed)
        chosen = draw.sample(sorted(captions), pictures)
        rows = [(name, text) for name in chosen for text in captions[name]]
        places = _from_different_pictures(draw, rows, wrong)
        foreign = [rows[place][1] for place in (*places[1:], places[0])]
        for place, text in zip(places, foreign, strict=True):
            rows[place] = (rows[place][0], text)
        lies = {rows[place] for place in places}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "data")
            _write(folder, images, rows, root)
            found = _audit(folder, Path(scratch, "out"), options)["noisy_pairs"]
        hits = [(row.image, row.caption) in lies for row in found.itertuples()]
        counts = ", ".join(f"{sum(hits[:first])} of the first {first}" for first in (20, wrong))
        click.echo(f"seed {seed}: {wrong} of {len(rows)} captions planted: {counts} are planted ones")


@main.command()
@click.option("--root", type=click.Path(path_type=Path, exists=True), required=True)
@click.argument("options", nargs=-1)
def judged(root: Path, options: tuple[str, ...]) -> None:
    """Audit the test split of Flickr8k (the others fit the evidence), and count judged pairs among the first."""
    captions, images = _published(root)
    split = _splits(root)
    rows = [(name, text, split[name]) for name in sorted(split) for text in captions[name]]
    votes = _crowd(root, captions)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "data")
        _write(folder, images, rows, root)
        found = _audit(folder, Path(scratch, "out"), options)["matches"]
    test = found[found["split"] == "test"]
    known = [votes.get((str(row.image), str(row.caption))) for row in test.head(max(FIRST)).itertuples()]
    for first in FIRST:
        answers = [share for share in known[:first] if share is not None]
        click.echo(f"first {first}: {sum(share >= 0.5 for share in answers)} of {len(answers)} judged match")


def _from_different_pictures(draw: random.Random, rows: list[tuple[str, str]], count: int) -> list[int]:
    """Rows in a circle, none beside a row of the same picture."""
    while True:
        places = draw.sample(range(len(rows)), count)
        if all(rows[one][0] != rows[other][0] for one, other in zip(places, places[1:] + places[:1], strict=True)):
            return places


def _published(root: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The captions of each picture, and where its file is in the archive."""
    with zipfile.ZipFile(root / "Flickr8k_Dataset.zip") as archive:
        images = {PurePosixPath(name).name: name for name in archive.namelist() if name.endswith(".jpg")}
    captions = defaultdict(list)
    for line in _lines(root, "Flickr8k.token.txt"):
        name, _, text = line.partition("\t")
        captions[name.rpartition("#")[0]].append(text.strip())
    return {name: texts for name, texts in captions.items() if name in images}, images


def _lines(root: Path, name: str) -> list[str]:
    with zipfile.ZipFile(root / "Flickr8k_text.zip") as archive:
        return archive.read(name).decode().splitlines()


def _splits(root: Path) -> dict[str, str]:
    names = {"train": "train", "val": "dev", "test": "test"}
    return {
        line.strip(): split for split, name in names.items() for line in _lines(root, f"Flickr_8k.{name}Images.txt")
    }


def _crowd(root: Path, captions: dict[str, list[str]]) -> dict[tuple[str, str], float]:
    """The share of yes of each judged picture and caption."""
    votes = {}
    for line in _lines(root, "CrowdFlowerAnnotations.txt"):
        image, identity, share, *_ = line.split("\t")
        name, _, number = identity.rpartition("#")
        if name in captions:
            votes[image, captions[name][int(number)]] = float(share)
    return votes


def _write(folder: Path, images: dict[str, str], rows: Sequence[tuple[str, ...]], root: Path) -> None:
    (folder / "images").mkdir(parents=True)
    with zipfile.ZipFile(root / "Flickr8k_Dataset.zip") as archive:
        for name in dict.fromkeys(row[0] for row in rows):
            (folder / "images" / name).write_bytes(archive.read(images[name]))
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "caption", "split"][: len(rows[0])])
        writer.writerows(rows)


def _audit(folder: Path, out: Path, options: tuple[str, ...]) -> dict[str, pandas.DataFrame]:
    subprocess.run(
        [sys.executable, "-m", "commands.audit", str(folder), "--to", str(out), *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return {
        "noisy_pairs": pandas.read_csv(out / "noisy_pairs.csv"),
        "matches": pandas.read_parquet(out / "matches.parquet"),
    }


if __name__ == "__main__":
    main()
