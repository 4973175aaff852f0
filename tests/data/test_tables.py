"""Tables as people have them: what they are read as, and what the error says of those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from pipeline.data.columns import ANY
from pipeline.data.rows import Row
from pipeline.data.tables import Table, open_table, table_rows
from pipeline.errors import InputError


def rows(folder: Path, name: str, text: str) -> list[Row]:
    (folder / name).write_text(text)
    table = open_table(folder / name)
    assert isinstance(table, Table), table
    return list(table_rows(table))


def pairs(folder: Path, name: str, text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.image, row.captions) for row in rows(folder, name, text)]


@pytest.mark.parametrize("caption", ['"Two dogs play', 'the sign says Stop"', '"Stop" says a sign', '"all of it"'])
@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", "\t"), ("results.csv", "| ")])
def test_a_quotation_mark_belongs_to_the_caption_where_tabs_or_bars_are_between(
    name: str, mark: str, caption: str, tmp_path: Path
) -> None:
    lines = [("image", "caption"), ("0.jpg", caption), ("1.jpg", "a dog"), ("2.jpg", caption)]
    found = pairs(tmp_path, name, "".join(f"{mark.join(line)}\n" for line in lines))
    assert found == [("0.jpg", (caption,)), ("1.jpg", ("a dog",)), ("2.jpg", (caption,))]


@pytest.mark.parametrize("mark", ["\t", "|"])
def test_what_pandas_writes_is_read_as_it_was(mark: str, tmp_path: Path) -> None:
    captions = ['a sign that says "stop" here', '"all of it"', '"', 'two "" marks', "a dog"]
    table = pandas.DataFrame({"image": [f"{number}.jpg" for number in range(5)], "caption": captions})
    found = rows(tmp_path, "a.csv", table.to_csv(index=False, sep=mark))
    assert [caption for row in found for caption in row.captions] == captions


def test_a_quoted_field_that_swallows_rows_is_refused(tmp_path: Path) -> None:
    text = 'image,caption\n0.jpg,a cat\n1.jpg,"Two dogs\n2.jpg,a hat\n3.jpg,the sign says Stop"\n4.jpg,a sea\n'
    with pytest.raises(
        InputError, match=r"a\.csv: line 3: a quoted field reaches to line 5 and holds the rows between"
    ):
        rows(tmp_path, "a.csv", text)
    assert pairs(tmp_path, "b.csv", 'image,caption\n0.jpg,"two\nlines"\n') == [("0.jpg", ("two\nlines",))]


def test_every_row_says_where_it_stands_also_after_a_field_of_two_lines(tmp_path: Path) -> None:
    found = rows(tmp_path, "a.csv", 'image,caption\n0.jpg,"two\nlines"\n\n1.jpg,one\n')
    assert [row.place for row in found] == [f"{tmp_path}/a.csv: line {line}" for line in (2, 5)]


def test_cocos_annotations_under_another_name_are_refused_with_a_hint(tmp_path: Path) -> None:
    """Their columns are none, and all names of columns would follow."""
    (tmp_path / "annotations.json").write_text('{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}')
    refused = open_table(tmp_path / "annotations.json")
    assert refused == (
        f"{tmp_path}/annotations.json: no list of objects; COCO's and Karpathy's files are known by their names"
    )


def test_the_split_is_a_column(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", "image,caption,split\n0.jpg,a dog,validation\n")[0].split == "val"
    assert rows(tmp_path, "b.csv", "image,caption\n0.jpg,a dog\n")[0].split is None
    found = rows(tmp_path, "c.csv", "image,caption,split\n0.jpg,a dog,Train\n1.jpg,a dog,\n")
    assert [row.split for row in found] == ["train", None]


def test_numbered_captions_may_be_fewer_than_their_columns(tmp_path: Path) -> None:
    text = "image,caption_0,caption_1\n0.jpg,a dog,\n1.jpg,a cat,a hat\n"
    assert pairs(tmp_path, "a.csv", text) == [("0.jpg", ("a dog",)), ("1.jpg", ("a cat", "a hat"))]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("labels.csv", "id,label\n0,a\n", "id, label"),
        ("a.tsv", "0.jpg\ta dog\n", "0.jpg, a dog"),
        ("a.jsonl", '{"url": "https://a", "text": "a dog"}\n', "url, text"),
        ("readme.txt", "Please cite\n", "Please cite"),
    ],
)
def test_a_table_that_is_refused_has_its_columns_listed(name: str, text: str, columns: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    refused = open_table(tmp_path / name)
    assert isinstance(refused, str)
    assert refused.startswith(f"{tmp_path / name}: the columns are {columns}; expected one for the image (image, ")
    wanted = open_table(tmp_path / name, ANY.model_copy(update={"caption": "alt"}))
    assert isinstance(wanted, str)
    assert wanted.endswith("expected alt (data.columns.caption)")


def test_null_and_nan_are_no_text(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "a.jsonl", '{"image": 0, "caption": NaN, "split": null}')
    assert row[:3] == ("0", ("",), None)
    with pytest.raises(InputError, match="line 1: no image"):
        rows(tmp_path, "b.jsonl", '{"image": NaN, "caption": "a dog"}')


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"image": "0.jpg", "text": "a"}\n[1]\n', "line 2: expected an object, found list"),
        ("a.jsonl", '{"image": "0.jpg", "text": "a"}\n{"image": "1.jpg"}\n', "line 2: no 'text'"),
        ("a.jsonl", '{"image": "0.jpg", "text": "a"}\n{"image"\n', "line 2: not readable as JSON"),
        ("a.tsv", "image\tcaption\n0.jpg\ta\tb\n", "line 2: expected 2 fields: image, caption; found 3"),
    ],
)
def test_a_bad_line_is_named(name: str, text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        rows(tmp_path, name, text)
    assert f"{name}: {expected}" in str(refused.value)


def test_a_broken_line_of_json_has_the_files_own_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}/a\.json: line 4: not readable as JSON"):
        rows(tmp_path, "a.json", '\n\n{"image": "0.jpg", "text": "a"}\n{"image"\n')


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lines_of_json_may_be_blank_and_long(name: str, tmp_path: Path) -> None:
    captions = ["a dog " * 20_000, "a cat"]
    lines = [json.dumps({"image": f"{number}.jpg", "caption": text}) for number, text in enumerate(captions)]
    found = pairs(tmp_path, name, "\n" + "\n\n".join(lines) + "\n \n")
    assert found == [("0.jpg", (captions[0].strip(),)), ("1.jpg", ("a cat",))]
