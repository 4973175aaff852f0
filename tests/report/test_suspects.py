from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest

from pipeline.data.splits.format import write_split
from pipeline.errors import InputError
from pipeline.report.lists import false_negative_table, suspect_table
from pipeline.report.suspects import Suspects, suspected_pairs
from tests.report.making import embedded_of, split_of

SIMILARITY = [[0.5, 0.7, 0.1, 0.0], [0.4, 0.6, 0.2, 0.1], [0.0, 0.1, 0.9, 0.2], [0.1, 0.0, 0.2, 0.3]]


def write_pairs(path: Path, **columns: Any) -> None:
    pandas.DataFrame({"image": [0, 1, 2, 3], "caption": [0, 1, 2, 3], **columns}).to_parquet(path)


def suspects_in(folder: Path, **more: Any) -> Suspects:
    write_split(folder / "train.json", split_of(), one_row_a_caption=True)
    paths = (folder / "train.json", folder / "weights.parquet", folder / "bank.parquet")
    return suspected_pairs(embedded_of(SIMILARITY), "test", *paths, 2, **more)


def test_weights_of_the_training_come_before_the_banks_probability(tmp_path: Path) -> None:
    write_pairs(tmp_path / "weights.parquet", weight=[1.0, 0.2, 1.0, 0.1])
    write_pairs(tmp_path / "bank.parquet", clean_probability=[0.1, 0.9, 0.9, 0.9])
    suspects = suspects_in(tmp_path)
    assert (suspects.measure, suspects.split_name) == ("weight", "train")
    assert list(suspects.table["caption"]) == [3, 1]


def test_without_weights_the_bank_says(tmp_path: Path) -> None:
    write_pairs(tmp_path / "bank.parquet", clean_probability=[0.1, 0.9, 0.8, 0.9])
    suspects = suspects_in(tmp_path)
    assert suspects.measure == "clean_probability"
    assert list(suspects.table["caption"]) == [0, 2]


def test_where_nothing_was_weighed_similarity_is_left(tmp_path: Path) -> None:
    pandas.DataFrame().to_parquet(tmp_path / "bank.parquet")  # as a run leaves it that needs no bank
    suspects = suspects_in(tmp_path)
    assert (suspects.measure, suspects.split_name) == ("similarity", "test")
    assert list(suspects.table["caption"]) == [3, 0]
    assert "weighed no pairs" in suspects.how


def test_where_the_noise_is_known_the_table_names_the_true_image(tmp_path: Path) -> None:
    write_pairs(tmp_path / "weights.parquet", weight=[1.0, 0.2, 1.0, 0.1])
    table = suspect_table(suspects_in(tmp_path, true_image_M=[0, 1, 3, 2]))
    assert list(table["image"]) == ["black.png", "green.png"]
    assert list(table["written_for"]) == ["blue.png", "green.png"]


def test_rows_beyond_the_split_and_missing_columns_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path / "weights.parquet", weight=[1.0, 1.0, 1.0, 1.0])
    table = pandas.read_parquet(tmp_path / "weights.parquet").assign(caption=[0, 99, 2, 3])
    table.to_parquet(tmp_path / "weights.parquet")
    with pytest.raises(InputError, match="caption = 99: the training split has 4"):
        suspects_in(tmp_path)
    table.drop(columns="weight").to_parquet(tmp_path / "weights.parquet")
    with pytest.raises(InputError, match="no column 'weight'; found image, caption"):
        suspects_in(tmp_path)


def test_the_tables_hold_names_and_texts() -> None:
    split = split_of('a square, "red"')
    found = pandas.DataFrame(
        {
            "image": [1, 2],
            "caption": [0, 1],
            "similarity": [0.7, 0.6],
            "posterior": [0.9, 0.8],
            "mark": ["true", "unjudged"],
        }
    )
    table = false_negative_table(found, split, "test")
    assert list(table["caption"]) == ['a square, "red"', "a green square"]
    assert list(table["written_for"]) == ["red.png", "green.png"]
    assert list(table["truth"]) == ["true", ""]
