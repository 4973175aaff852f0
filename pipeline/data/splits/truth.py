"""Which captions are true of which images, for datasets with more labels than their pairs.

`truth.parquet` has the columns split, image and caption (rows of the split's images and captions, from 0), relevance
and source; `truth.json` says how to read a pair that is not listed: false ("exact"), unknown ("judged"), or false if
the query has a listed pair, else unknown ("pooled").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.data.acquire.layouts import Files
from pipeline.data.splits.coco_judgments import POOLED, coco_truth
from pipeline.data.splits.format import SPLITS, Split
from pipeline.data.text import read_json, read_lines
from pipeline.errors import InputError
from pipeline.files import write_json, write_table
from pipeline.paths import TRUTH, TRUTH_KIND

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from numpy.typing import NDArray

BLOCK_CAPTIONS = 2000  # evaluated at a time: captions × images as bool
JUDGED = "Flickr8k's human judgments: crowd, the share of yes; expert, the median of three scores from 1 to 4"
EXACT = "every caption is a predicate, evaluated on every scene of its split; every pair that is not listed is false"

COLUMNS = ["split", "image", "caption", "relevance", "source"]
JUDGMENTS = {"CrowdFlowerAnnotations.txt": ("crowd", 0, 1), "ExpertAnnotations.txt": ("expert", 1, 4)}


def write_truth(
    layout: str,
    files: Files,
    splits: Mapping[str, Split],
    folder: Path,
    permutation_M: NDArray[np.int64] | None = None,
) -> list[str]:
    """Write the labels beyond the pairs, if there are any; returns a line about them, or an empty one.

    `splits` are the clean ones; row m of the noisy train.json has caption `permutation_M[m]` (None: no noise).

    Raises:
        InputError: naming the file and the line of a wrong label, or a caption that is not in the scenes' grammar.
    """
    if layout == "scenes":
        kind, table = {"kind": "exact", "how": EXACT}, _scene_truth(files, splits)
    elif layout == "flickr8k" and JUDGMENTS.keys() & files.keys():
        kind, table = {"kind": "judged", "how": JUDGED}, _judgments(files, splits)
    elif layout == "karpathy":
        kind, table = {"kind": "pooled", "how": POOLED}, _frame(coco_truth(files, splits))
    else:
        return []
    if table.empty:
        return []
    if permutation_M is not None:
        train = table["split"] == "train"
        table.loc[train, "caption"] = permutation_M.argsort()[table.loc[train, "caption"]].astype("int32")
    write_table(folder / TRUTH.name, table)
    write_json(folder / TRUTH_KIND.name, kind)
    counts = ", ".join(f"{source} {count}" for source, count in table["source"].value_counts(sort=False).items())
    return [f"truth ({kind['kind']}): {len(table)} pairs ({counts})"]


def _frame(rows: Any) -> pandas.DataFrame:
    import pandas

    frame = pandas.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"image": "int32", "caption": "int32", "relevance": "float32"})


def scene_objects(files: Files, name: str) -> list[frozenset[str]]:
    """What the pictures of a split of generated scenes show: the colour and kind of each shape."""
    from pipeline.data.scenes.scenes import Scene

    scenes = (Scene.from_json(row) for row in read_json(files["scenes.json"])[name])
    return [frozenset(f"{shape.colour} {shape.kind}" for shape in scene.shapes) for scene in scenes]


def _scene_truth(files: Files, splits: Mapping[str, Split]) -> pandas.DataFrame:
    import numpy
    import pandas

    from pipeline.data.scenes.scenes import Scene, truth

    content = read_json(files["scenes.json"])
    frames = []
    for name in SPLITS:
        scenes = [Scene.from_json(row) for row in content[name]]
        captions = splits[name].captions
        for start in range(0, len(captions), BLOCK_CAPTIONS):
            try:
                true_MN = truth(captions[start : start + BLOCK_CAPTIONS], scenes)
            except (InputError, ArithmeticError, ValueError) as error:  # the latter: no scene of ours
                raise InputError(f"{files['scenes.json']}: {name}: {error}") from None
            caption, image = numpy.nonzero(true_MN)
            columns = {"split": name, "image": image, "caption": caption + start, "relevance": 1.0, "source": "scenes"}
            frames.append(_frame(columns))
    return pandas.concat(frames, ignore_index=True)


def _judgments(files: Files, splits: Mapping[str, Split]) -> pandas.DataFrame:
    places = {name: (split, row) for split, content in splits.items() for row, name in enumerate(content.images)}
    captions: dict[str, list[int]] = {}  # rows of an image's captions within its split
    for content in splits.values():
        for row, image_row in enumerate(content.caption_image):
            captions.setdefault(content.images[image_row], []).append(row)
    rows = []
    for file_name, (source, low, high) in JUDGMENTS.items():
        for number, line in enumerate(read_lines(files[file_name]) if file_name in files else (), 1):
            place = f"{files[file_name]}: line {number}"
            image, caption_image, index, numbers = _judgment(line, place)
            relevance = numbers[0] if source == "crowd" else float(median(numbers))
            if not low <= relevance <= high:
                raise InputError(f"{place}: judged {relevance}, expected {low} to {high}")
            if image not in places or caption_image not in places:
                continue  # a skipped image
            if not 0 <= index < len(captions[caption_image]):
                raise InputError(f"{place}: image {caption_image!r} has no caption {index}")
            (split, image_row), (caption_split, _) = places[image], places[caption_image]
            if split == caption_split:
                rows.append((split, image_row, captions[caption_image][index], relevance, source))
    return _frame(rows)


def _judgment(line: str, place: str) -> tuple[str, str, int, list[float]]:
    """Image, the image its caption was written for, the caption's number there, and the three numbers of the label."""
    image, _, rest = line.partition("\t")
    identity, *fields = rest.split("\t")
    caption_image, _, index = identity.rpartition("#")
    try:
        numbers = [float(field) for field in fields]
        if len(numbers) != 3:
            raise ValueError(f"{len(numbers)} numbers")
        return image, caption_image, int(index), numbers
    except ValueError as error:
        raise InputError(
            f"{place}: {line[:80]!r} ({error}), expected <image>, <image>#<number> and three numbers, between tabs"
        ) from None
