from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from pipeline.data.splits.truth_file import Noise
from pipeline.errors import InputError
from pipeline.report.lists import suspect_table
from pipeline.report.pair_list import PairList
from pipeline.report.suspects import suspected_pairs, true_images
from tests.report.making import embedded_of, split_of

SIMILARITY = [[0.5, 0.7, 0.1, 0.0], [0.4, 0.6, 0.2, 0.1], [0.0, 0.1, 0.9, 0.2], [0.1, 0.0, 0.2, 0.3]]


def write_pairs(path: Path, **columns: Any) -> None:
    pandas.DataFrame({"image": [0, 1, 2, 3], "caption": [0, 1, 2, 3], **columns}).to_parquet(path)


def suspects_in(folder: Path, true: list[int] | None = None, **trust: list[float]) -> PairList:
    splits = dict.fromkeys(("train", "test"), split_of())
    paths = (folder / "weights.parquet", folder / "bank.parquet")
    trusted = {name: torch.tensor(values) for name, values in trust.items()}
    known = {} if true is None else {"train": true, "test": range(4)}
    return suspected_pairs(splits, trusted, 2, known, embedded_of(SIMILARITY), *paths)


def places(pairs: PairList) -> list[tuple[str, int]]:
    return list(zip(pairs.table["split"], pairs.table["caption"], strict=True))


def test_the_least_trusted_pairs_of_all_splits_come_first_with_npcs_weight_where_there_is_one(tmp_path: Path) -> None:
    write_pairs(tmp_path / "weights.parquet", weight=[1.0, 0.2, 1.0, 0.1])
    suspects = suspects_in(tmp_path, train=[0.9, 0.1, 0.8, 0.7], test=[1.0, 1.0, 0.05, 0.9])
    assert suspects.measure == "trust"
    assert places(suspects) == [("test", 2), ("train", 1)]
    assert suspects.table["trust"].tolist() == pytest.approx([0.05, 0.1])
    assert suspects.table["weight"].isna().tolist() == [True, False]


def test_precision_counts_the_pairs_that_are_wrong_in_truth_beyond_those_shown(tmp_path: Path) -> None:
    suspects = suspects_in(tmp_path, [1, 0, 2, 3], train=[0.2, 0.1, 0.8, 0.7], test=[1.0] * 4)
    assert len(suspects.table) == 2
    assert [str(part) for part in suspects.precision] == ["2 of 8"]
    assert suspects_in(tmp_path, train=[0.2] * 4).precision == []


def test_only_training_captions_have_noise_and_generated_pictures_have_no_other() -> None:
    splits = dict.fromkeys(("train", "test"), split_of())
    wrong = np.array([1, 0, 2, 3])
    noise = Noise(np.arange(4), wrong, wrong != np.arange(4), 0.5)
    known = true_images(splits, noise, clean=False)
    assert (list(known["train"]), list(known["test"])) == ([1, 0, 2, 3], [0, 1, 2, 3])
    assert true_images(splits, None, clean=False) == {}
    assert list(true_images(splits, None, clean=True)["train"]) == [0, 1, 2, 3]


def test_weights_of_the_training_come_before_the_banks_probability(tmp_path: Path) -> None:
    write_pairs(tmp_path / "weights.parquet", weight=[1.0, 0.2, 1.0, 0.1])
    write_pairs(tmp_path / "bank.parquet", clean_probability=[0.1, 0.9, 0.9, 0.9])
    suspects = suspects_in(tmp_path)
    assert suspects.measure == "weight"
    assert places(suspects) == [("train", 3), ("train", 1)]


def test_without_weights_the_bank_says(tmp_path: Path) -> None:
    write_pairs(tmp_path / "bank.parquet", clean_probability=[0.1, 0.9, 0.8, 0.9])
    suspects = suspects_in(tmp_path)
    assert suspects.measure == "clean_probability"
    assert list(suspects.table["caption"]) == [0, 2]


def test_where_nothing_was_weighted_similarity_is_left(tmp_path: Path) -> None:
    pandas.DataFrame().to_parquet(tmp_path / "bank.parquet")  # as a run leaves it that needs no bank
    suspects = suspects_in(tmp_path)
    assert suspects.measure == "similarity"
    assert places(suspects) == [("test", 3), ("test", 0)]
    assert "weighted no pairs" in suspects.how


def test_where_the_noise_is_known_the_table_names_the_true_image(tmp_path: Path) -> None:
    write_pairs(tmp_path / "weights.parquet", weight=[1.0, 0.2, 1.0, 0.1])
    table = suspect_table(suspects_in(tmp_path, [0, 1, 3, 2]), {"train": split_of()})
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
