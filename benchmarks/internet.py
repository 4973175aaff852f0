"""What the pipeline would need for a million, a hundred million and five thousand million pairs.

    python -m benchmarks.internet            # some five minutes; needs the extra ann

Takes unit costs on this machine, multiplies them, and searches a million synthetic vectors exactly and through an
inverted index, to see what recall an approximate search gives away. Writes docs/results/internet.json and the page
docs/internet.md.
"""

from __future__ import annotations

import json
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence.near import CLUSTERS_PER_ROOT, PROBED

FIGURES = Path("docs/results/internet.json")
NOTES = Path("docs/results/notes/internet.md")
PAGE = Path("docs/internet.md")
PAIRS = {"1 M": 10**6, "100 M": 10**8, "5 G": 5 * 10**9}
WIDTH = 768
JPEG_BYTES = 130_000  # of a photograph of Flickr's, 500 x 375 pixels, as given out
PREPARED_BYTES = 90_000  # of one as stage features keeps it: 384 x 384 pixels, JPEG of quality 95
PAIR_PASSES = 4  # a step's: forward, backward (two), and the momentum towers' forward
VIT_GFLOP = 55.5  # of ViT-B/16 at 384 pixels, one forward pass
GPU_TFLOPS = 400.0  # bf16, about two fifths of an H100's peak; a figure to put one's own in
VECTORS, QUERIES, SEARCH_WIDTH, TOPICS, LISTS = 1_000_000, 2_000, 256, 20_000, 4096
PROBES = (1, 4, 16, 64, 256)
BLUR = 2.3  # a query is far from its item, as a caption is from its image: the exact search, too, misses some


@click.command()
@click.option("--write", is_flag=True, help="measure nothing; write the page from docs/results/internet.json")
def main(write: bool) -> None:
    """Measure, and write the page."""
    from pipeline.files import write_json, write_text

    if not write:
        write_json(FIGURES, {"machine": platform.machine(), "units": units(), "search": search()})
    write_text(PAGE, page_of(json.loads(FIGURES.read_text(encoding="utf-8"))))


def units() -> dict[str, float]:
    """Bytes and seconds for one pair, or one product."""
    return _captions() | _ranks() | _evidence()


def _captions(count: int = 200_000) -> dict[str, float]:
    from pipeline.data.splits.format import Split, read_split, write_split

    words = np.random.default_rng(1).integers(0, 9999, (count, 11)).tolist()
    pictures = [(f"{i:012d}.jpg", [" ".join(f"w{word}" for word in words[i])]) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        write_split(path, Split.of(pictures), one_row_a_caption=True)
        del pictures, words
        before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        split = read_split(path)
        seconds = time.process_time() - begun
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        held = sum(text.__sizeof__() for part in (split.images, split.captions) for text in part) + 3 * 8 * count
        return {
            "split: bytes on disk": path.stat().st_size / count,
            "split: bytes in memory, at least": max(grown, held) / count,
            "split: seconds to read": seconds / count,
        }


def _ranks(images: int = 4_000) -> dict[str, float]:
    from pipeline.retrieval.ranks import retrieval_ranks

    image_ND, text_MD = (normalize(torch.randn(count, SEARCH_WIDTH), dim=1) for count in (images, 5 * images))
    begun = time.process_time()
    retrieval_ranks(image_ND, text_MD, torch.arange(images).repeat_interleave(5))
    return {"ranks: seconds of a core for a product": (time.process_time() - begun) / (images * 5 * images)}


def _evidence(images: int = 20_000) -> dict[str, float]:
    from pipeline.evidence import kinds
    from pipeline.evidence.kinds import SplitEvidence, Vectors
    from pipeline.evidence.listed import blocks
    from pipeline.evidence.posterior import fit_posterior

    topic_ND = torch.randn(images // 8, SEARCH_WIDTH).repeat_interleave(8, 0)
    image_M = torch.arange(images).repeat_interleave(5)
    image_ND, text_MD = (
        normalize(part + torch.randn_like(part), dim=1).half() for part in (topic_ND, topic_ND[image_M])
    )
    evidence = SplitEvidence(("captions", "regression", "pictures"), image_M, {}, Vectors(text_MD, image_ND))
    every_M, kinds.LARGEST_TABLE = torch.arange(len(image_M)), 0
    posterior = fit_posterior(evidence.of(image_M, every_M), evidence.of(image_M.roll(99), every_M), prior=1000)
    compared = blocks(evidence)[::4]
    begun = time.process_time()
    for image_I, caption_J in compared:
        posterior.fast_log_ratio(evidence.block(image_I, caption_J))
    seconds = time.process_time() - begun
    return {"evidence: seconds of a core for a comparison": seconds / sum(len(i) * len(j) for i, j in compared)}


def search() -> list[dict[str, float]]:
    """Recall of the own item and time a query, exact and by an inverted file, for several numbers of lists visited."""
    import faiss

    item_ND, query_QD = _vectors()
    flat = faiss.IndexFlatIP(SEARCH_WIDTH)
    flat.add(item_ND.numpy())
    rows = [_searched(flat, query_QD, "exact")]
    quantizer = faiss.IndexFlatIP(SEARCH_WIDTH)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, SEARCH_WIDTH, LISTS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.train(item_ND[: 40 * LISTS].numpy())
    index.add(item_ND.numpy())
    for probes in PROBES:
        index.nprobe = probes
        rows.append(_searched(index, query_QD, f"{probes} of {LISTS} lists, 8 bits a number"))
    return rows


def _vectors() -> tuple[Tensor, Tensor]:
    """Items around topics, as images are around what they show; a query is its own item, blurred."""
    generator = torch.Generator().manual_seed(1)
    topic_TD = normalize(torch.randn(TOPICS, SEARCH_WIDTH, generator=generator), dim=1)
    item_ND = torch.empty(VECTORS, SEARCH_WIDTH)
    for part_BD in item_ND.split(100_000):
        of_B = torch.randint(TOPICS, (len(part_BD),), generator=generator)
        noise_BD = torch.randn(part_BD.shape, generator=generator) * (0.6 / SEARCH_WIDTH**0.5)
        part_BD.copy_(normalize(topic_TD[of_B] + noise_BD, dim=1))
    own_Q = torch.arange(QUERIES) * (VECTORS // QUERIES)
    noise_QD = torch.randn(QUERIES, SEARCH_WIDTH, generator=generator) * (BLUR / SEARCH_WIDTH**0.5)
    return item_ND, normalize(item_ND[own_Q] + noise_QD, dim=1)


def _searched(index: Any, query_QD: Tensor, name: str) -> dict[str, Any]:
    begun = time.process_time()
    _, found_QK = index.search(query_QD.numpy(), 10)
    seconds = time.process_time() - begun
    own_Q = np.arange(QUERIES) * (VECTORS // QUERIES)
    hit_QK = found_QK == own_Q[:, None]
    recalls = {f"R@{k}": 100 * float(hit_QK[:, :k].any(axis=1).mean()) for k in (1, 5, 10)}
    return {"index": name, **recalls, "milliseconds a query": 1000 * seconds / QUERIES}


def page_of(figures: dict[str, Any]) -> str:
    """The Markdown page."""
    unit = figures["units"]
    gpu_pair = PAIR_PASSES * VIT_GFLOP * 1.5 / GPU_TFLOPS / 1000  # the text tower counts half an image tower
    costs = {
        "download: bytes": JPEG_BYTES,
        "split, FNE's JSON on disk: bytes": unit["split: bytes on disk"],
        "split, read into memory: bytes": unit["split: bytes in memory, at least"],
        "split, read: core-seconds": unit["split: seconds to read"],
        "features, prepared images: bytes": PREPARED_BYTES,
        "features, frozen, float16, both sides: bytes": 2 * 2 * WIDTH,
        "features, frozen: GPU-seconds": 1.5 * VIT_GFLOP / GPU_TFLOPS / 1000,
        "evidence, vectors in each process's memory: bytes": 2 * 2 * WIDTH,
        "train, an epoch of towers: GPU-seconds": gpu_pair,
    }
    rows = [
        [name, *(_told(cost * count, name.rpartition(": ")[2]) for count in PAIRS.values())]
        for name, cost in costs.items()
    ]
    each = unit["evidence: seconds of a core for a comparison"] * PROBED / CLUSTERS_PER_ROOT
    rows.append(
        ["evidence, each image with the captions near its own: core-seconds"]
        + [_told(each * count * count**0.5, "core-seconds") for count in PAIRS.values()]
    )
    each = unit["ranks: seconds of a core for a product"]
    rows.append(
        ["evaluate, exact ranks of all against all: core-seconds"]
        + [_told(each * count * count, "core-seconds") for count in PAIRS.values()]
    )
    found = figures["search"]
    return "\n".join(
        [
            "# A million pairs, and more\n",
            NOTES.read_text(encoding="utf-8"),
            _table(["stage", *PAIRS], rows),
            "Unit costs, measured: "
            + "; ".join(f"{name} {value:.3g}" for name, value in unit.items())
            + f". Taken for granted: {JPEG_BYTES} bytes an image, {PREPARED_BYTES} prepared; {VIT_GFLOP} GFLOP an "
            f"image's forward pass, half of it a caption's; {GPU_TFLOPS:.0f} TFLOP/s a GPU.\n",
            "## What an approximate search gives away\n",
            f"{VECTORS // 10**6} 000 000 synthetic vectors of {SEARCH_WIDTH} numbers around "
            f"{TOPICS // 1000} 000 topics; {QUERIES // 1000} 000 queries, each a vector and noise {BLUR} times as "
            "long; faiss; processor time of a query, many at once:\n",
            _table(list(found[0]), [[_cell(value) for value in row.values()] for row in found]),
        ]
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _told(value: float, unit: str) -> str:
    if unit == "bytes":
        size = next(
            (f"{value / 10**power:.0f} {name}" for power, name in BYTES if value >= 10**power), f"{value:.0f} B"
        )
        return size
    return next((f"{value / length:.0f} {name}" for length, name in TIMES if value >= length), "under 1 s")


BYTES = ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"))
TIMES = ((365 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


if __name__ == "__main__":
    main()
