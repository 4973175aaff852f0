"""What each stage costs for many pairs: seconds, memory and bytes, from tar and from parquet shards.

    python -m benchmarks.shards --pairs 100000

Makes that many synthetic pairs (a JPEG of 224 by 224 pixels and a caption), no two alike, runs all stages in a scratch
copy of params.yaml (an epoch of heads over frozen small towers), and prints a row of docs/scale.md for each stage.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click

from benchmarks.measuring import run_stage
from pipeline.files import write_text
from pipeline.paths import MADE_BY
from pipeline.recipes import Recipe, apply_recipe

ROOT = Path(__file__).parents[1]
SHARD_PAIRS = 10_000  # as img2dataset writes them
GROUP_ROWS = 100
PICTURES = 64
CHANGES = {
    "data.name": "folder",
    "base.epochs": 0,
    "model.train": "heads",
    "model.features_dtype": "float16",
    "evidence.kinds": ["regression"],  # an image has one caption
    "memory.size": 4096,
    "train.epochs": 1,
    "train.warmup_epochs": 0,
    "train.batch_size": 512,
    "evaluate.truth": "none",
}


@click.command()
@click.option("--pairs", default=100_000, show_default=True)
def main(pairs: int) -> None:
    """Print a row for each kind of shard and each stage."""
    for kind in ("tar", "parquet"):
        with tempfile.TemporaryDirectory() as folder:
            write = write_tar if kind == "tar" else write_parquet
            for start in range(0, pairs, SHARD_PAIRS):
                write(Path(folder, "mine"), start, samples(start, min(SHARD_PAIRS, pairs - start)))
            for row in measured(Path(folder), pairs):
                click.echo(f"| {kind} | {row} |")


def samples(start: int, count: int) -> Iterator[tuple[str, bytes, str]]:
    """Keys, JPEGs and captions; each JPEG has its number as a comment, so that no two are alike."""
    pictures = _pictures()
    for number in range(start, start + count):
        comment = f"{number:012d}".encode()
        content = pictures[number % PICTURES]
        content = content[:2] + b"\xff\xfe\x00\x0e" + comment + content[2:]
        yield f"{number:09d}", content, f"A photograph of thing {number} beside another one, number {number % 977} ."


def write_tar(folder: Path, start: int, rows: Iterator[tuple[str, bytes, str]]) -> None:
    """One webdataset shard: .jpg and .txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{start // SHARD_PAIRS:05d}.tar", "w") as archive:
        for key, image, text in rows:
            for name, content in ((f"{key}.jpg", image), (f"{key}.txt", text.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(folder: Path, start: int, rows: Iterator[tuple[str, bytes, str]]) -> None:
    """One shard of the hub's kind, a hundred rows a group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("text", pa.string())])
    with pq.ParquetWriter(folder / f"{start // SHARD_PAIRS:05d}.parquet", schema) as file:
        while group := list(islice(rows, GROUP_ROWS)):
            cells = [{"image": {"bytes": image, "path": f"{key}.jpg"}, "text": text} for key, image, text in group]
            file.write_table(pa.Table.from_pylist(cells, schema))


def measured(folder: Path, pairs: int) -> Iterator[str]:
    """Cells of each stage: seconds; a processor's microseconds and bytes kept, a pair; MiB of memory at most."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changes = CHANGES | {"data.root": str(folder / "mine")}
    write_text(folder / "params.yaml", apply_recipe(Recipe(folder, "Shards", changes), text))
    for stage in dict.fromkeys(MADE_BY.values()):
        seconds, busy, peak = run_stage(stage, folder)
        outputs = [folder / place for place, maker in MADE_BY.items() if maker == stage]
        files = [path for place in outputs for path in (place, *place.rglob("*")) if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        yield f"{stage} | {seconds:.0f} | {1e6 * busy / pairs:.0f} | {size / pairs:.0f} | {peak / 2**20:.0f}"


def _pictures() -> list[bytes]:
    """JPEGs of 224 by 224 pixels, about 17 kB each."""
    import numpy
    from PIL import Image

    draw = numpy.random.default_rng(1)
    made = []
    for _ in range(PICTURES):
        coarse = Image.fromarray(draw.integers(0, 256, (28, 28, 3), dtype=numpy.uint8))
        content = io.BytesIO()
        coarse.resize((224, 224), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        made.append(content.getvalue())
    return made


if __name__ == "__main__":
    main()
