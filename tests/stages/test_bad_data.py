"""What bad input does to download and split: one line that names it, and nothing that existed is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.splits.format import read_split
from tests.data.published import (
    Copy,
    cc120k,
    flickr30k,
    jpeg,
    own_folder,
    serve,
    write_copy_params,
    write_files,
    write_params,
)
from tests.stages.downloading import download, packed
from tests.stages.running import invoke, refused, run

pytestmark = pytest.mark.usefixtures("workplace", "hub")


def good_then(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    """A good run on a folder with FNE's JSON, whose outputs must outlive what `spoil` does to the folder."""
    copy = own_folder(tmp_path / "mine", "fne")
    download(copy)
    run("split")
    spoil(tmp_path / "mine")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    good_then(tmp_path, shutil.rmtree)
    assert f"data.root = '{tmp_path / 'mine'}': there is no folder" in refused("download")


def test_a_missing_images_folder_is_named(tmp_path: Path) -> None:
    good_then(tmp_path, lambda mine: shutil.rmtree(mine / "images"))
    assert str(tmp_path / "mine/images") in refused("download")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda text: text[: len(text) // 2], "mine_test.json: not readable as JSON (cut off?)"),
        (
            lambda text: text.replace('"image"', '"picture"', 1),
            "row 0: no 'image'; found the keys 'picture', 'caption'",
        ),
        (
            lambda text: text.replace("day 8", "day 88", 1),
            "1 images that the annotations name are missing: holiday/day 88",
        ),
    ],
)
def test_broken_annotations_are_named(spoil: Callable[[str], str], expected: str, tmp_path: Path) -> None:
    def spoil_test(mine: Path) -> None:
        path = mine / "mine_test.json"
        path.write_text(spoil(path.read_text()))

    good_then(tmp_path, spoil_test)
    assert expected in refused("download")


def test_an_image_that_does_not_decode_is_named_or_skipped(tmp_path: Path) -> None:
    broken = tmp_path / "mine/images/holiday/day 3.jpg"
    good_then(tmp_path, lambda _: broken.write_bytes(broken.read_bytes()[:-60]))
    assert f"{broken}: does not decode" in refused("download")

    write_params(Path(), data__name="folder", data__root=str(tmp_path / "mine"), data__on_bad_image="skip")
    assert "skipped: 1 images that are missing or do not decode: holiday/day 3.jpg" in run("download", "split")
    assert len(packed()) == 9
    assert json.loads(Path("data/raw/source.json").read_text())["skipped"] == ["holiday/day 3.jpg"]
    assert len(read_split(Path("data/split/train.json")).images) == 5


def test_two_layouts_in_one_folder_need_a_choice(tmp_path: Path) -> None:
    good_then(tmp_path, lambda mine: own_folder(mine, "csv"))
    assert "2 layouts: fne, table; set data.annotations" in refused("download")
    write_params(Path(), data__name="folder", data__root=str(tmp_path / "mine"), data__annotations="table")
    run("download")


def test_two_tables_need_a_choice_and_one_of_something_else_does_not(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    copy = own_folder(mine, "csv")
    write_files(mine, {"labels.csv": "id,label\n0,a\n"})
    download(copy)
    write_files(mine, {"more.csv": (mine / "captions.csv").read_text().replace("A dog", "A cat")})
    assert f"is it {mine}/captions.csv or {mine}/more.csv? Name one in data.files" in refused("download")
    download(copy, data__files="more.csv")


def test_a_table_without_known_columns_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    write_files(tmp_path / "mine", {"images/0.jpg": jpeg(0), "labels.csv": "id,label\n0,a\n"})
    write_copy_params(Path(), Copy("folder", "auto", {}, {}, tmp_path / "mine"), None)
    said = refused("download")
    assert "no annotations of karpathy, fne, scan, table, coco, shards, sidecar there" in said
    assert f"{tmp_path}/mine/labels.csv: the columns are id, label; expected one for the image" in said


def test_a_table_beside_flickr30k_does_not_replace_karpathys_splits(tmp_path: Path) -> None:
    copy = flickr30k(tmp_path, "karpathy")
    copy.annotations = "auto"
    rows = "".join(f"{name}| 0| A dog .\n" for name in copy.expected)
    write_files(tmp_path / "mine", {"results.csv": f"image_name| comment_number| comment\n{rows}"})
    assert "10 images with 50 captions (train 6, val 2, test 2)" in download(copy)
    assert "10 images with 10 captions (not split yet 10)" in download(copy, data__annotations="table")


def test_names_that_fit_two_images_are_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    copy = Copy("folder", "auto", {}, {}, mine)
    rows = "".join(f"{number}.jpg,a dog\n" for number in range(3))
    write_files(
        mine, {f"images/{number}.jpg": jpeg(number) for number in range(2)} | {"a.csv": f"image,caption\n{rows}"}
    )
    write_files(mine, {"images/cat/2.jpg": jpeg(2), "images/dog/2.JPG": jpeg(3)})
    write_copy_params(Path(), copy, None)
    assert f"image '2.jpg': is it {mine}/images/cat/2.jpg or {mine}/images/dog/2.JPG?" in refused("download")
    write_files(mine, {"images/dog/2.JPG": jpeg(2), "annotations/a.csv": (mine / "a.csv").read_bytes()})
    download(copy)
    assert packed() == {f"{number}.jpg": jpeg(number) for number in range(3)}


def test_half_of_a_layout_is_named(tmp_path: Path) -> None:
    good_then(tmp_path, lambda mine: (mine / "mine_val.json").unlink())
    assert "found mine_test.json, mine_train.json but not val.json or *_val.json" in refused("download")


def test_flickr30k_says_where_its_images_are_given_out(tmp_path: Path) -> None:
    write_params(Path(), data__name="flickr30k")
    said = refused("download")
    assert "signed form" in said
    assert "https://shannon.cs.illinois.edu/DenotationGraph/" in said
    assert "flickr30k-images/" in said
    copy = flickr30k(tmp_path, "karpathy")
    shutil.rmtree(tmp_path / "mine/flickr30k-images")
    with serve(copy.served) as mirror:
        write_copy_params(Path(), copy, mirror)
        assert "signed form" in invoke("download").output


def test_annotations_that_are_not_there_are_named_with_the_folders_that_were_searched(tmp_path: Path) -> None:
    copy = Copy("mscoco", "scan", {}, {}, tmp_path / "mine")
    write_files(tmp_path / "mine", {"train2014/COCO_train2014_000000000009.jpg": jpeg(9)})
    write_copy_params(Path(), copy, None)
    said = refused("download")
    assert "no annotations of scan there, in its folders ., annotations, annotations/scan_split, coco" in said
    assert "(scan: train_ids.txt, train_caps.txt," in said


def test_a_layout_that_a_source_does_not_have_is_refused(tmp_path: Path) -> None:
    write_copy_params(Path(), cc120k(tmp_path / "mine"), None, data__annotations="fne")
    assert "data.annotations = 'fne': data.name = 'cc120k' can be read with auto, scan" in refused("download")
