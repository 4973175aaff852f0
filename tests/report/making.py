"""A small data set for the report's tests: coloured squares, captions that name the colour, vectors made by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from PIL import Image

from pipeline.data.images import ImageArchive, write_images
from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Truth
from pipeline.report.curves import posterior_note, run_charts
from pipeline.report.false_negatives import by_similarity, false_negative_list
from pipeline.report.findings import Listing
from pipeline.report.gallery import Embedded
from pipeline.report.judging import Right, matching, measured, mismatched, proposed
from pipeline.report.labels import Labelled
from pipeline.report.page import Contents, Evaluated, Statement, render_page
from pipeline.report.pair_list import PairList, Reason
from pipeline.report.pictures import Pictures
from pipeline.report.retrieval import retrieval_of

COLOURS = ("red", "green", "blue", "black")
HOSTILE = (
    '</q></script><script>document.title = "taken"</script><img src=x onerror="document.title = 1">"\'&amp;{{ 7*7 }}'
)
NAMES = tuple(f"{colour}.png" for colour in COLOURS)
CONFUSED = [[0.5, 0.7, 0.1, 0.0], [0.4, 0.6, 0.2, 0.1], [0.0, 0.1, 0.9, 0.2], [0.1, 0.0, 0.2, 0.8]]
"""Similarities of images and captions: red and green are confused, all else is right."""
PAIRS = [
    # split, image, caption, trust, answer
    ("train", "red.png", "a red square", 0.9, ""),
    ("train", "red.png", "a warm square", 0.8, ""),
    ("train", "red.png", "a bus", 0.1, ""),
    ("train", "green.png", "a green square", 0.2, "yes"),
    ("train", "green.png", "a lie", 0.9, "no"),
    ("val", "blue.png", 'a "blue", square', 1.0, ""),
    ("test", "black.png", "a black square", 0.6, ""),
]
MATCHES = [
    # split, image, caption, written_for, posterior, answer
    ("train", "green.png", "a warm square", "red.png", 0.9, "no"),
    ("train", "red.png", "a green square", "green.png", 0.2, "yes"),
    ("train", "green.png", "a red square", "red.png", 0.7, ""),
]


def split_of(*captions: str) -> Split:
    """One image a colour with one caption each: the given ones first, then `a COLOUR square`."""
    texts = [*captions, *(f"a {colour} square" for colour in COLOURS[len(captions) :])]
    return Split(NAMES, tuple(texts), tuple(range(len(COLOURS))))


def truth_of(*true: tuple[int, int], false: tuple[tuple[int, int], ...] = (), exact: bool = True) -> Truth:
    """The listed (image, caption) pairs as judged."""
    pairs = np.array([*true, *false], np.int64).reshape(-1, 2)
    asked = {direction: np.ones(len(pairs), bool) for direction in ("i2t", "t2i")}
    return Truth(exact, "by hand", pairs[:, 0], pairs[:, 1], np.arange(len(pairs)) < len(true), asked)


def embedded_of(similarity_NM: list[list[float]], truth: Truth | None = None, split: Split | None = None) -> Embedded:
    """Vectors whose products are these similarities: the texts are the axes."""
    image_ND = torch.tensor(similarity_NM)
    return Embedded(split or split_of(), truth, image_ND=image_ND, text_MD=torch.eye(image_ND.shape[1]))


def write_pictures(folder: Path, names: Sequence[str] = NAMES) -> ImageArchive:
    """A square of each colour, under these names."""
    path = folder / "images.zip"
    pictures = []
    for colour, name in zip(COLOURS, names, strict=True):
        content = io.BytesIO()
        Image.new("RGB", (48, 32), colour).save(content, "PNG")
        pictures.append((name, content.getvalue()))
    write_images(path, pictures)
    return ImageArchive(path)


def write_audit(folder: Path) -> Path:
    """What an audit of squares left in this folder, without its page."""
    folder.mkdir()
    pairs = pandas.DataFrame(PAIRS, columns=["split", "image", "caption", "trust", "answer"])
    pairs.to_parquet(folder / "pairs.parquet")
    columns = ["split", "image", "caption", "written_for", "posterior", "answer"]
    pandas.DataFrame(MATCHES, columns=columns).to_parquet(folder / "matches.parquet")
    facts = {"title": "Audit: squares", "statements": ["3: pairs probably match"], "evidence": "words"}
    (folder / "audit.json").write_text(json.dumps(facts))
    return folder


def write_page(folder: Path, split: Split, truth: Truth | None, judged: Judged | None = None, **more: Any) -> Path:
    """The page of a model that confuses red and green. `more` replaces parts of its contents."""
    embedded = replace(embedded_of(CONFUSED, truth, split), judged=judged)
    curves = pandas.DataFrame(
        {
            "similarity": [0.0, 0.5, 1.0],
            "matched": [0.0, 1.0, 1.0],
            "unmatched": [1.0, 1.0, 0.0],
            "posterior": [0.0, 0.2, 0.9],
            "weight": [0.0, 1.0, 0.6],
        }
    )
    found = by_similarity(embedded, "test", torch.Tensor.double, 5)
    listed = false_negative_list(found, {"test": embedded}, "by hand", 5)
    listed = replace(listed, reasons=[[Reason("words", 0.5, HOSTILE)]] * 5)
    table = pandas.DataFrame({"split": "test", "image": [3, 1], "caption": [3, 1], "trust": [0.1, 0.2]})
    record = pandas.DataFrame({"step": [1, 2], "train/loss": [0.4, 0.2], "val_rsum": [100.0, 200.0]})
    side = {"R1": 75.0, "R5": 100.0, "R10": 100.0, "median_rank": 1.0}
    figures = {"i2t": side, "t2i": side, "rsum": 450.0}
    evaluated = Evaluated(
        metrics={"test": figures, "last": figures},
        intervals={},
        published=[],
        charts=run_charts(curves, record, record, threshold=0.3),
        chart_note=posterior_note(curves),
    )
    contents = Contents(
        title="Audit: squares",
        statements=[Statement("5", "pairs probably match")],
        splits={"test": embedded},
        truth="" if truth is None else truth.how,
        false_negatives=listing(embedded, listed, matching),
        suspects=listing(embedded, PairList(table, "trust", "by hand", []), lambda splits: mismatched(splits, {})),
        footer=[("run", "by hand"), ("command", "python -m tests")],
        evaluated=replace(evaluated, **{name: more.pop(name) for name in ("intervals", "published") if name in more}),
        retrieval=retrieval_of("test", embedded, "vectors made by hand", 2),
    )
    path = folder / "index.html"
    contents = replace(contents, **more)
    path.write_text(render_page(contents, Pictures(write_pictures(folder, split.images), 32)), encoding="utf-8")
    return path


def listing(labelled: Labelled, pairs: PairList, right: Callable[[dict[str, Labelled]], Right]) -> Listing:
    """A list whose pairs are all that there are, so that their probabilities are those of the whole list."""
    values = torch.tensor(pairs.table[pairs.measure].to_numpy(), dtype=torch.float64)
    image, caption = (torch.tensor(pairs.table[name].to_numpy()) for name in ("image", "caption"))
    columns = {"test": (image, caption, 1 - values if pairs.measure == "trust" else values)}
    compared = right({"test": labelled})
    return Listing(pairs, measured(columns, compared), proposed(columns, compared, 3, seed=1))
