"""Rows put together: what is counted, what is left out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.rows import Picture, Row, gather, read_pictures, split_in_path, splits_in_paths, write_pictures
from pipeline.errors import InputError


def row(image: str, *captions: str, split: str | None = None, place: str = "a.csv: line 2") -> Row:
    return Row(image, captions, split, place)


def test_rows_of_an_image_are_put_together_and_all_are_counted() -> None:
    found = gather([row("a.jpg", "one"), row("b.jpg", " two "), row("a.jpg", "three", "four")])
    assert found.pictures == (Picture("a.jpg", ("one", "three", "four"), None), Picture("b.jpg", ("two",), None))
    assert (found.rows, found.notes, found.has_splits) == (3, (), False)


def test_a_row_that_repeats_another_is_left_out_and_told() -> None:
    rows = [row("a.jpg", "one"), row("b.jpg", "one"), *(row("a.jpg", "one", place=f"a.csv: line {n}") for n in (7, 9))]
    found = gather(rows)
    assert [picture.captions for picture in found.pictures] == [("one",), ("one",)]
    assert found.rows == 4
    assert found.notes == ("left out: 2 rows that repeat an earlier one; the first is a.csv: line 7",)


def test_captions_that_one_row_repeats_stay_as_published() -> None:
    assert gather([row("a.jpg", "one", "one")]).pictures[0].captions == ("one", "one")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a.jpg")], "image 'a.jpg' has no caption"),
        ([row("a.jpg", "one", " ")], "image 'a.jpg' has an empty caption"),
        ([row("../a.jpg", "one")], "leaves its folder"),
        ([row("a.jpg", "\ud800")], "half a character"),
        (
            [row("a.jpg", "one", split="train"), row("a.jpg", "two", split="test")],
            "in split test here and in split train",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(rows: list[Row], expected: str) -> None:
    with pytest.raises(InputError, match=rf"^a\.csv: line 2: .*{expected}"):
        gather(rows)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("train/cc3m-test-0001.tar", "test"),
        ("train2014", "train"),
        ("train/test_tube/", "train"),
        ("test_tube/Train/", "train"),
        ("coco_train2014/test_tube/", "train"),
        ("00000.tar", None),
        ("trainer/latest.tar", None),
    ],
)
def test_the_files_name_counts_and_then_the_outermost_folder(path: str, split: str | None) -> None:
    assert split_in_path(path) == split


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["plane/", "train/", "car/"], [None, None, None]),
        (["train_station/", "dog/"], [None, None]),
        (["train/", "test/", "more/"], ["train", "test", None]),
        (["test/"], ["test"]),
    ],
)
def test_one_splits_name_among_other_folders_is_a_class(paths: list[str], expected: list[str | None]) -> None:
    assert splits_in_paths(paths) == dict(zip(paths, expected, strict=True))


def test_pictures_are_read_as_they_were_written(tmp_path: Path) -> None:
    pictures = [Picture("a.jpg", ("one", "two\u2028lines"), "train"), Picture("b.jpg", ("three",), None)]
    write_pictures(tmp_path / "pictures.parquet", pictures)
    assert read_pictures(tmp_path / "pictures.parquet") == pictures
