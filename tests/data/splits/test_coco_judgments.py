"""ECCV Caption's and CxC's judgments find their places in a split by COCO's ids."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import pytest

from pipeline.data.splits.coco_judgments import coco_truth
from pipeline.data.splits.format import Split, write_split
from pipeline.data.splits.truth import write_truth
from pipeline.data.splits.truth_file import read_truths

DATA = Path(str(distribution("eccv-caption").locate_file("eccv_caption/data")))
Pairs = set[tuple[int, int]]  # COCO's ids of an image and a caption


def judged(name: str) -> dict[int, list[int]]:
    return {int(query): items for query, items in json.loads((DATA / name).read_text()).items()}


@pytest.fixture(scope="module")
def captions_of() -> dict[int, list[int]]:
    """Thirty images that ECCV asked about, those of the captions it found among them, and five captions each."""
    original = judged("original_image_to_caption.json")
    owner = judged("original_caption_to_image.json")
    images: dict[int, list[int]] = {}
    for image, captions in list(judged("eccv_image_to_caption.json").items())[:10]:
        for other in [image, *(owner[caption][0] for caption in captions[:3] if caption in owner)]:
            images[other] = sorted(original[other])
    return images


def karpathy(folder: Path, captions_of: dict[int, list[int]]) -> tuple[Path, Split]:
    rows = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{image:012}.jpg",
            "cocoid": image,
            "sentences": [{"raw": f"caption {caption}", "sentid": caption} for caption in captions],
        }
        for image, captions in captions_of.items()
    ]
    file = folder / "dataset_coco.json"
    file.write_text(json.dumps({"images": rows}))
    pictures = [
        (f"val2014/COCO_val2014_{image:012}.jpg", [f"caption {caption}" for caption in captions])
        for image, captions in captions_of.items()
    ]
    return file, Split.of(pictures)


def test_each_source_keeps_just_the_pairs_that_are_in_the_split(
    captions_of: dict[int, list[int]], tmp_path: Path
) -> None:
    file, split = karpathy(tmp_path, captions_of)
    empty = Split.of([])
    (line,) = write_truth("karpathy", {file.name: file}, {"train": empty, "val": empty, "test": split}, tmp_path)
    assert line.startswith("truth (pooled)")
    write_split(tmp_path / "test.json", split, one_row_a_caption=False)
    truths = read_truths(tmp_path, "test")
    assert list(truths) == ["eccv", "cxc"]
    assert read_truths(tmp_path, "val") == {}

    images = list(captions_of)
    captions = [int(text.removeprefix("caption ")) for text in split.captions]
    by_image = {"eccv": judged("eccv_image_to_caption.json"), "cxc": judged("cxc_image_to_caption.json")}
    by_caption = {"eccv": judged("eccv_caption_to_image.json"), "cxc": judged("cxc_caption_to_image.json")}
    for source, truth in truths.items():
        assert truth.true_P.all()
        assert truth.exact, "of a query that is asked, what is not listed is false"
        expected: dict[str, Pairs] = {
            "i2t": {(image, item) for image, items in by_image[source].items() for item in items},
            "t2i": {(item, caption) for caption, items in by_caption[source].items() for item in items},
        }
        for direction, pairs in expected.items():
            rows = zip(truth.image_P, truth.caption_P, truth.asked_P[direction], strict=True)
            found = {(images[image], captions[caption]) for image, caption, asked in rows if asked}
            assert found == {(image, caption) for image, caption in pairs if image in images and caption in captions}
            assert len(found) > 10


def test_an_empty_caption_that_was_skipped_moves_no_other(captions_of: dict[int, list[int]], tmp_path: Path) -> None:
    file, split = karpathy(tmp_path, captions_of)
    whole = coco_truth({file.name: file}, {"test": split})
    content = json.loads(file.read_text())
    for row in content["images"]:
        row["sentences"][0]["raw"] = " "
    file.write_text(json.dumps(content))
    found = coco_truth({file.name: file}, {"test": Split.of([(image, texts[1:]) for image, texts in split.pictures()])})
    # five captions an image, of which the first is gone
    kept = {(*row[:2], row[2] - row[2] // 5 - 1, *row[3:]) for row in whole if row[2] % 5}
    assert 0 < len(kept) < len(whole)
    assert set(found) == kept
