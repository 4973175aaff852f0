"""Readers of published layouts: what they make of good files, and which row they name in bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.acquire.sources import SOURCES
from pipeline.data.rows import Annotations, Picture
from pipeline.data.splits.annotations import read_annotations
from pipeline.errors import InputError


def read(folder: Path, layout: str, source: str = "folder", **files: str) -> Annotations:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return read_annotations(layout, {path.name: path for path in folder.iterdir()}, SOURCES[source])


def karpathy(*rows: dict[str, Any]) -> str:
    return json.dumps({"images": rows})


def row(name: str, split: str, *texts: str, **more: Any) -> dict[str, Any]:
    return {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]} | more


GOOD = (row("a.jpg", "train", "one", "two"), row("b.jpg", "val", "three"), row("c.jpg", "test", "four"))


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"split": "test"}, "row 3: no 'filename'; found the keys 'split'"),
        (row("d.jpg", "testing", "x"), "row 3: split = 'testing', expected one of train, val, test, restval"),
        (row("d.jpg", "train", "x", ""), "row 3: image 'd.jpg' has an empty caption"),
        (row("d.jpg", "train"), "row 3: sentences = "),
        (row("d.jpg", "train", "x", filepath="/abs"), "'/abs/d.jpg' leaves its folder"),
        (row("a.jpg", "test", "x"), "row 3: image 'a.jpg' is in split test here and in split train before"),
        ("text", "row 3: expected an object, found str"),
    ],
)
def test_a_bad_row_of_karpathys_json_is_named(bad: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, "karpathy", dataset__json=karpathy(*GOOD, bad))
    assert expected in str(refused.value)
    assert "dataset.json" in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', '{"images": [{"filename"', "null"])
def test_json_that_is_cut_off_or_something_else_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: "):
        read(tmp_path, "karpathy", dataset__json=content)


SCAN = {"dev_ids__txt": "4\n", "dev_caps__txt": "d\ne\n", "test_ids__txt": "7\n7\n", "test_caps__txt": "f\ng\n"}


def test_scan_ids_stand_once_an_image_or_once_a_caption(tmp_path: Path) -> None:
    annotations = read(tmp_path, "scan", train_ids__txt="0\n1\n", train_caps__txt="a\nb\u2028b\nc\nd\n", **SCAN)
    assert annotations.pictures == (
        Picture("0.jpg", ("a", "b\u2028b"), "train"),
        Picture("1.jpg", ("c", "d"), "train"),
        Picture("4.jpg", ("d", "e"), "val"),
        Picture("7.jpg", ("f", "g"), "test"),
    )


@pytest.mark.parametrize(
    ("ids", "captions", "expected"),
    [
        ("0\n1\n", "a\nb\nc\n", "train_caps.txt: 3 captions for the 2 ids"),
        ("0\n", "a\n\nc\n", "train_caps.txt: line 2: an empty caption"),
        ("0\n\n", "a\nb\n", "train_ids.txt: line 2: an empty id"),
    ],
)
def test_scan_text_that_does_not_fit_is_named(ids: str, captions: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, "scan", train_ids__txt=ids, train_caps__txt=captions, **SCAN)
    assert expected in str(refused.value)


@pytest.mark.parametrize("identity", ["9", "-1", "x", "9" * 5000])
def test_an_id_beyond_image_name_txt_is_named(identity: str, tmp_path: Path) -> None:
    expected = rf"train_ids\.txt: line 1: id '{identity[:60]}', expected one of image_name\.txt .*, 0 to 1"
    with pytest.raises(InputError, match=expected):
        read(
            tmp_path,
            "scan",
            train_ids__txt=f"{identity}\n",
            train_caps__txt="a\n",
            image_name__txt="x.jpg\ny.jpg\n",
            **SCAN,
        )


def test_a_table_may_quote_and_need_not_name_splits(tmp_path: Path) -> None:
    annotations = read(tmp_path, "table", c__csv='caption,image\n"a, ""b""",x.jpg\nc,y.jpg\nd,x.jpg\n')
    assert annotations == Annotations(
        (Picture("x.jpg", ('a, "b"', "d"), None), Picture("y.jpg", ("c",), None)),
        rows=3,
        columns=("image image, caption caption, split not there",),
    )
    assert not annotations.has_splits


def test_a_table_without_a_column_for_it_has_the_split_of_its_name(tmp_path: Path) -> None:
    (picture,) = read(tmp_path, "table", my_dev__csv="image,caption\n0.jpg,a dog\n").pictures
    assert picture.split == "val"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "the columns are none; expected one for the image (image, file_name,"),
        ("image,caption\n", "no row"),
        ("image,caption\nx.jpg\n", "line 2: expected 2 fields"),
        ("image,caption\nx.jpg,a,b\n", "line 2: expected 2 fields"),
        ("image,caption\nx.jpg,\n", "line 2: image 'x.jpg' has an empty caption"),
        ("image,caption\n,a\n", "line 2: no image"),
        ('image,caption\nx.jpg,"a\n', "not readable as a table"),
        ("image,caption,split\nx.jpg,a,holdout\n", "split = 'holdout'"),
    ],
)
def test_a_bad_row_of_a_table_is_named(table: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, "table", c__csv=table)
    assert expected in str(refused.value)
    assert "c.csv" in str(refused.value)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes("image,caption\nx.jpg,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"c\.csv: no UTF-8 text"):
        read(tmp_path, "table")


FLICKR8K = {
    "Flickr_8k__trainImages__txt": "a.jpg\n",
    "Flickr_8k__devImages__txt": "b.jpg\n",
    "Flickr_8k__testImages__txt": "c.jpg\n",
}
TOKENS = "a.jpg#0\tone\na.jpg#1\ttwo\nb.jpg#0\tthree\nc.jpg#0\tfour\n"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (TOKENS.replace("a.jpg#1", "a.jpg#3"), "line 2: 'a.jpg#3"),
        (TOKENS.replace("\tthree", "\t"), "line 3: 'b.jpg#0'"),
        (TOKENS.replace("c.jpg#0\tfour\n", ""), "image 'c.jpg' of split test has no caption"),
        (TOKENS.replace("a.jpg#0\t", "a.jpg "), "line 1"),
    ],
)
def test_a_bad_line_of_flickr8ks_tokens_is_named(tokens: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, "flickr8k", "flickr8k", Flickr8k__token__txt=tokens, **FLICKR8K)
    assert expected in str(refused.value)
