"""Labels of ECCV Caption and CxC for MS-COCO's test split, by the ids in Karpathy's file.

Chun et al. (2022), ECCV Caption: Correcting False Negatives by Collecting Machine-and-Human-verified Image-Caption
Associations for MS-COCO; Parekh et al. (2021), Crisscrossed Captions. The package `eccv-caption` contains both as lists
of ids: COCO's image ids (`cocoid`) and caption ids (`sentid`). FNE's and SCAN's files have no caption ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

from pipeline.data.acquire.layouts import Files
from pipeline.data.splits.format import Split
from pipeline.data.text import read_json

POOLED = (
    "ECCV Caption and CxC by the package eccv-caption: pairs that people confirmed, out of those that models or "
    "similar captions proposed; of a query that has such a pair, every pair that is not listed counts as false"
)
# ECCV's labels differ by the query's direction; CxC's pairs are the same in both directions.
FILES = {
    "eccv_i2t": "eccv_image_to_caption.json",
    "eccv_t2i": "eccv_caption_to_image.json",
    "cxc": "cxc_image_to_caption.json",
}

Place = tuple[str, int]  # a split, and a row in it
Row = tuple[str, int, int, float, str]  # split, image, caption, relevance and source


def coco_truth(files: Files, splits: Mapping[str, Split]) -> list[Row]:
    """The rows of truth.parquet; none if the file has no COCO ids, such as Flickr30K's."""
    images, captions = _places(files, splits)
    if not images:
        return []
    rows = []
    for source, name in FILES.items():
        for query, items in _judgments(name).items():
            for item in dict.fromkeys(items):  # a pair counts once
                image, caption = (item, int(query)) if source == "eccv_t2i" else (int(query), item)
                image_place, caption_place = images.get(image), captions.get(caption)
                # a skipped image, or one that this file puts in another split than the caption
                if image_place is None or caption_place is None or image_place[0] != caption_place[0]:
                    continue
                rows.append((*image_place, caption_place[1], 1.0, source))
    return rows


def _places(files: Files, splits: Mapping[str, Split]) -> tuple[dict[int, Place], dict[int, Place]]:
    """The places of COCO's image ids and caption ids; an image's captions are in the file's order."""
    image_rows = {name: (split, row) for split, content in splits.items() for row, name in enumerate(content.images)}
    first: dict[Place, int] = {}
    for split, content in splits.items():
        for row, image in enumerate(content.caption_image):
            first.setdefault((split, image), row)
    images, captions = {}, {}
    (file,) = files.values()
    for row in read_json(file)["images"]:
        folder = row.get("filepath")
        place = image_rows.get(f"{folder}/{row['filename']}" if folder else row["filename"])
        # empty captions are in no split, see `data.on_bad_image`
        identities = [sentence.get("sentid") for sentence in row["sentences"] if sentence["raw"].strip()]
        if place is None or not all(isinstance(identity, int) for identity in (row.get("cocoid"), *identities)):
            continue
        images[row["cocoid"]] = place
        for number, identity in enumerate(identities):
            captions[identity] = (place[0], first[place] + number)
    return images, captions


def _judgments(name: str) -> dict[str, list[int]]:
    """One of the package's files, without importing the package, which would read all files and print warnings."""
    path = Path(str(distribution("eccv-caption").locate_file(f"eccv_caption/data/{name}")))
    judgments: dict[str, list[int]] = read_json(path)
    return judgments
