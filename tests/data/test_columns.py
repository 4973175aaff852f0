"""Which columns of a table are read, and what their cells hold."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.data.columns import ANY, Columns, choose_columns, texts


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["raw", "sentids", "split", "filename", "img_id"], Columns("filename", ("raw",), "split")),
        (["image_name", "comment_number", "comment"], Columns("image_name", ("comment",), None)),
        (["filepath", "title"], Columns("filepath", ("title",), None)),
        (["File Name", "Text"], Columns("File Name", ("Text",), None)),
        (
            ["image", "caption_1", "caption_0", "caption_10"],
            Columns("image", ("caption_0", "caption_1", "caption_10"), None),
        ),
        (["image", "text", "caption"], Columns("image", ("caption",), None)),
    ],
)
def test_columns_are_found_by_name(found: list[str], expected: Columns) -> None:
    assert choose_columns(found, ANY) == expected
    assert expected.complete


@pytest.mark.parametrize("found", [["id", "label"], ["url", "caption"], ["image", "label"], []])
def test_a_table_without_an_image_or_a_caption_is_not_complete(found: list[str]) -> None:
    assert not choose_columns(found, ANY).complete


def test_an_image_itself_goes_before_its_name_and_both_are_kept() -> None:
    chosen = choose_columns(["id", "picture", "filename", "text"], ANY, pixels=["picture"])
    assert chosen == Columns("filename", ("text",), None, "picture")
    assert str(chosen) == "image picture named by filename, caption text, split not there"


def test_named_columns_are_taken_and_a_missing_one_is_no_table() -> None:
    found = ["image", "thumb", "caption", "alt_0", "alt_1", "part"]
    wanted = ANY.model_copy(update={"image": "thumb", "caption": "alt", "split": "part"})
    assert choose_columns(found, wanted) == Columns("thumb", ("alt_0", "alt_1"), "part")
    assert not choose_columns(found, ANY.model_copy(update={"caption": "subtitle"})).complete


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("A dog .", ["A dog ."]),
        ('["A dog .", "Two, \\"three\\" dogs"]', ["A dog .", 'Two, "three" dogs']),
        ("['A dog .', \"A dog's bed\"]", ["A dog .", "A dog's bed"]),
        ("['A dog .' 'Two dogs .'\n 'Three dogs .']", ["A dog .", "Two dogs .", "Three dogs ."]),
        (["A dog .", "Two dogs ."], ["A dog .", "Two dogs ."]),
        ([{"raw": "A dog .", "sentid": 1}], ["A dog ."]),
        ("[two dogs]", ["[two dogs]"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[__import__('os')]", ["[__import__('os')]"]),
        ("[]", ["[]"]),
        (None, []),
        (float("nan"), [""]),
        (0, ["0"]),
    ],
)
def test_a_value_that_looks_like_a_list_is_one(cell: Any, expected: list[str]) -> None:
    assert texts(cell) == expected
