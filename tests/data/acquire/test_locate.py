"""A user's folder: which of its images and annotation files are read, and what is said where that is unclear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.images import ImageArchive
from pipeline.data.prepare import prepare
from pipeline.data.rows import Picture, read_pictures
from pipeline.errors import InputError
from pipeline.params import load_params
from tests.data.brought import parquet
from tests.data.published import Copy, jpeg, write_copy_params, write_files


@pytest.fixture(autouse=True)
def main_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads and what was seen of a folder are kept here."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def read(folder: Path, files: dict[str, bytes | str], **changes: Any) -> list[Picture]:
    """What stage download makes of these files."""
    write_files(folder / "mine", files)
    write_copy_params(folder, Copy("folder", "auto", {}, {}, folder / "mine"), None, **changes)
    (folder / "raw").mkdir(exist_ok=True)
    prepare(load_params(folder / "params.yaml").data, folder / "raw")
    return read_pictures(folder / "raw/annotations/pictures.parquet")


def images(numbers: range, name: str = "images/{}.jpg") -> dict[str, bytes | str]:
    return {name.format(number): jpeg(number) for number in numbers}


def table(numbers: range, name: str = "{}.jpg") -> str:
    return "image,caption\n" + "".join(f"{name.format(number)},a dog {number}\n" for number in numbers)


@pytest.mark.parametrize("others", [("images/{}.jpg",), ("images/small/{}.jpg", "images/thumb/{}.jpg")])
def test_a_path_below_the_folder_goes_before_base_names_in_images(others: tuple[str, ...], tmp_path: Path) -> None:
    files = images(range(6), "full/{}.jpg") | {"captions.csv": table(range(6), "full/{}.jpg")}
    for start, name in enumerate(others, 1):
        files |= {name.format(number): jpeg(10 * start + number) for number in range(6)}
    read(tmp_path, files)
    archive = ImageArchive(tmp_path / "raw/images.zip")
    assert [archive.read(f"full/{number}.jpg") for number in range(6)] == [jpeg(number) for number in range(6)]


def test_of_near_names_the_one_in_the_images_folder_is_taken(tmp_path: Path) -> None:
    files = {"images/a.JPG": jpeg(1), "thumbs/a.jpeg": jpeg(2), "thumbs/A.jpg": jpeg(3)}
    read(tmp_path, {**files, "captions.csv": "image,caption\na,a dog\n"})
    assert ImageArchive(tmp_path / "raw/images.zip").read("a") == jpeg(1)


def sidecars(*names: str) -> dict[str, bytes | str]:
    """An image of each name and the text file beside it."""
    files: dict[str, bytes | str] = {f"{name}.jpg": jpeg(number) for number, name in enumerate(names)}
    return files | {f"{name}.txt": f"a dog {number}" for number, name in enumerate(names)}


def test_a_class_inside_a_splits_folder_is_no_split(tmp_path: Path) -> None:
    names = [f"{split}/{kind}/0" for split in ("train", "val", "test") for kind in ("train_station", "dog")]
    found = read(tmp_path, sidecars(*names))
    assert {picture.image: picture.split for picture in found} == {f"{n}.jpg": n.partition("/")[0] for n in names}


def test_a_class_called_train_beside_others_is_no_split(tmp_path: Path) -> None:
    found = read(tmp_path, sidecars("car/0", "plane/0", "train/0"))
    assert [(picture.image, picture.split) for picture in found] == [
        *(("car/0.jpg", None), ("plane/0.jpg", None), ("train/0.jpg", None))
    ]


def test_a_text_beside_its_image_is_no_table(tmp_path: Path) -> None:
    (picture,) = read(tmp_path, sidecars("0") | {"0.txt": "photo, dog, text, outdoors"})
    assert picture.captions == ("photo, dog, text, outdoors",)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
FOREIGN = {"a.jsonl": '{\n  "name": "mine"\n}\n', "a.json": "{", "x.parquet": POINTER}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_unreadable_file_beside_a_table_is_passed_over(name: str, tmp_path: Path) -> None:
    files = {**images(range(2)), "captions.csv": table(range(2)), name: FOREIGN[name]}
    assert [picture.image for picture in read(tmp_path, files)] == ["0.jpg", "1.jpg"]


def test_an_unreadable_file_alone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no annotations of .*/mine/x\.parquet: not a whole parquet file"):
        read(tmp_path, {"x.parquet": POINTER})


def test_a_shard_or_a_table_that_was_cut_off_is_not_passed_over(tmp_path: Path) -> None:
    parquet(tmp_path / "mine/0.parquet", [{"image": jpeg(1), "caption": "a dog"}])
    with pytest.raises(InputError, match=r"1\.parquet: not a whole parquet file"):
        read(tmp_path, {"1.parquet": POINTER})
    parquet(tmp_path / "mine/0.parquet", [{"image": "0.jpg", "caption": "a dog"}])
    with pytest.raises(InputError, match=r"1\.parquet: not a whole parquet file"):
        read(tmp_path, images(range(1)))


@pytest.mark.parametrize("pattern", ["annotations/{}", "{}"])
@pytest.mark.parametrize(("name", "layout"), [("captions_val2017.json", "coco"), ("more.csv", "table")])
def test_data_files_names_a_path_or_a_file(name: str, layout: str, pattern: str, tmp_path: Path) -> None:
    coco = {"images": [{"id": 0, "file_name": "0.jpg"}], "annotations": [{"image_id": 0, "caption": "a dog 0"}]}
    one = json.dumps(coco) if layout == "coco" else table(range(1))
    files = {**images(range(2)), f"annotations/{name}": one, "annotations/captions.csv": table(range(2))}
    assert [picture.image for picture in read(tmp_path, files, data__files=pattern.format(name))] == ["0.jpg"]


@pytest.mark.parametrize("layout", ["auto", "coco"])
def test_data_files_that_match_nothing_are_named(layout: str, tmp_path: Path) -> None:
    files = {**images(range(2)), "captions.csv": table(range(2))}
    with pytest.raises(InputError, match=r"data\.files = 'nothing\*': matches no file below .*/mine"):
        read(tmp_path, files, data__files="nothing*", data__annotations=layout)


def test_json_whose_names_fit_two_layouts_may_be_a_table(tmp_path: Path) -> None:
    files = images(range(3))
    for number, split in enumerate(("train", "val", "test")):
        rows = [{"file_name": f"{number}.jpg", "text": "a dog"}]
        files[f"captions_{split}.json"] = json.dumps(rows)
    with pytest.raises(InputError, match=r"2 layouts: fne, coco; set .* to the one to read, or to table"):
        read(tmp_path, files)
    found = read(tmp_path, {}, data__annotations="table")
    assert {picture.image: picture.split for picture in found} == {"0.jpg": "train", "1.jpg": "val", "2.jpg": "test"}
