"""Ranks of all images and captions over the matrix product alone, and their memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measuring import PeakMemory, Row, at_most, ratio, synchronised, without_gpu
from pipeline.retrieval.ranks import retrieval_ranks

WIDTH = 512
LARGE_WIDTH = 256
CHUNK = 1024
WATCHED_SECONDS = 60.0


def rows() -> Iterator[Row]:
    """5 000 x 25 000; growth from a tenth of 100 000 x 500 000 to a fifth; the memory of the whole."""
    yield from _karpathy()
    yield from on_gpu()
    yield from _growth()
    yield _whole()


def _karpathy() -> Iterator[Row]:
    what = "ranks, 5 000 images x 25 000 captions"
    features = _features(5_000, WIDTH)
    image_ND, text_MD, _ = features
    block = torch.empty(CHUNK, len(text_MD))

    def product() -> None:
        for part_BD in image_ND.split(CHUNK):
            torch.mm(part_BD, text_MD.T, out=block[: len(part_BD)])

    value, remark = ratio(lambda: retrieval_ranks(*features), product, 5)
    yield at_most(what, "over the matrix product alone", value, 1.15, f"{remark}; D {WIDTH}")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:  # this one keeps what it freed
        megabytes = fresh.submit(_peak_bytes).result() / 1e6
    yield at_most(what, "MB beyond the embeddings", megabytes, 400, "in a process of its own")


def on_gpu() -> Iterator[Row]:
    """The same on a GPU, with the products in float32 as well."""
    what, measure = "ranks, 5 000 images x 25 000 captions, on a GPU", "over the matrix product alone"
    if not torch.cuda.is_available():
        yield without_gpu(what, measure, "")
        return
    image_ND, text_MD, of_M = (part.cuda() for part in _features(5_000, WIDTH))
    product = synchronised(lambda: image_ND @ text_MD.T)
    value, remark = ratio(
        synchronised(lambda: retrieval_ranks(image_ND, text_MD, of_M)), product, 20, time.perf_counter
    )
    yield Row(what, measure, value, "", None, remark)


def _peak_bytes() -> int:
    features = _features(5_000, WIDTH)
    with PeakMemory() as peak:
        retrieval_ranks(*features)
    return peak.bytes


def _growth() -> Iterator[Row]:
    seconds = []
    for images in (5_000, 10_000):
        features = _features(images, LARGE_WIDTH)
        begun = time.process_time()
        retrieval_ranks(*features)
        seconds.append(time.process_time() - begun)
    growth = seconds[1] / seconds[0] / 4
    whole = seconds[1] * 100
    yield at_most(
        "ranks, 100 000 x 500 000 (synthetic)",
        "growth from 5 000 x 25 000 to 10 000 x 50 000, over that of N·M",
        growth,
        1.15,
        f"{seconds[1]:.1f} s for a hundredth of it: the whole, not run to its end, would take {whole / 60:.0f} minutes",
    )


def _whole() -> Row:
    """Everything is allocated at the beginning, tiles come and go: a minute shows the memory of an hour."""
    process = multiprocessing.get_context("spawn").Process(target=_rank_all)
    process.start()
    deadline, peak = time.monotonic() + WATCHED_SECONDS, 0
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(1)
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))])
    ended = not process.is_alive()
    process.kill()
    process.join()
    remark = "to its end" if ended else f"of its first {WATCHED_SECONDS:.0f} s, then ended"
    embeddings = 600_000 * LARGE_WIDTH * 4 / 1e9
    return at_most(
        "ranks, 100 000 x 500 000 (synthetic)",
        "GB of the whole process, torch and embeddings included",
        peak / 1e9,
        2,
        f"peak {remark}; embeddings {embeddings:.2f} GB, D {LARGE_WIDTH}",
    )


def _rank_all() -> None:
    retrieval_ranks(*_features(100_000, LARGE_WIDTH))


def _features(images: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Five captions an image; made in place, so that making them needs no more memory than they do."""
    generator = torch.Generator().manual_seed(1)
    image_ND, text_MD = (torch.randn(count, width, generator=generator) for count in (images, 5 * images))
    for part in (*image_ND.split(10_000), *text_MD.split(10_000)):
        normalize(part, dim=1, out=part)
    return image_ND, text_MD, torch.arange(images).repeat_interleave(5)
