"""What stages download and split cost for many pairs: seconds and bytes for each, from tar and from parquet shards.

    python -m benchmarks.shards --pairs 100000

Makes that many synthetic pairs (a JPEG of 224 by 224 pixels and a caption), no two alike, runs both stages in a scratch
copy of params.yaml, and prints a row of docs/scale.md for each kind of shard.
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
from pipeline.recipes import Recipe, apply_recipe

ROOT = Path(__file__).parents[1]
SHARD_PAIRS = 10_000  # as img2dataset writes them
GROUP_ROWS = 100
PICTURES = 64


@click.command()
@click.option("--pairs", default=100_000, show_default=True)
def main(pairs: int) -> None:
    """Print a row for each kind of shard."""
    for kind in ("tar", "parquet"):
        with tempfile.TemporaryDirectory() as folder:
            write = write_tar if kind == "tar" else write_parquet
            for start in range(0, pairs, SHARD_PAIRS):
                write(Path(folder, "mine"), start, samples(start, min(SHARD_PAIRS, pairs - start)))
            click.echo(f"| {kind} | {measured(Path(folder), pairs)} |")


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


def measured(folder: Path, pairs: int) -> str:
    """Cells of both stages: seconds; a processor's microseconds and bytes kept, a pair; MiB of memory at most."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    changes = {"data.name": "folder", "data.root": str(folder / "mine")}
    write_text(folder / "params.yaml", apply_recipe(Recipe(folder, "Shards", changes), text))
    cells = []
    for stage, output in (("download", "data/raw"), ("split", "data/split")):
        seconds, busy, peak = run_stage(stage, folder)
        size = sum(path.stat().st_size for path in (folder / output).rglob("*") if path.is_file())
        cells.append(f"{seconds:.0f} | {1e6 * busy / pairs:.0f} | {size / pairs:.0f} | {peak / 2**20:.0f}")
    return " | ".join(cells)


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
