"""Rows in numbered shards: what goes in comes out, and an interrupted run keeps what it had finished."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import InputError
from pipeline.features import shards
from pipeline.features.shards import PackedShards, feature_shards, pack, shard_path, write_shards


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)


def all_of(numbers: Iterable[int]) -> Iterable[int]:
    return numbers


def write_features(folder: Path, rows: int) -> Tensor:
    feature = torch.rand(rows, 3, generator=torch.Generator().manual_seed(rows))
    write_shards(folder, "images", rows, lambda part: {"feature": feature[part.start : part.stop]}, all_of)
    return feature


def write_packed(folder: Path, rows: list[Tensor]) -> None:
    write_shards(folder, "captions", len(rows), lambda part: pack(rows[part.start : part.stop]), all_of)


@pytest.mark.parametrize(("rows", "files"), [(1, 1), (4, 1), (5, 2), (12, 3)])
def test_features_come_back_from_one_shard_and_from_several(tmp_path: Path, rows: int, files: int) -> None:
    feature = write_features(tmp_path, rows)
    assert len(list(tmp_path.iterdir())) == files
    joined = feature_shards(tmp_path, "images")
    assert isinstance(joined, Tensor)
    assert torch.equal(joined, feature)


@pytest.mark.parametrize("rows", [5, 12])
def test_features_too_many_for_memory_are_read_where_they_lie(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = write_features(tmp_path, rows)
    monkeypatch.setattr(shards, "JOINED_BYTES", 0)
    mapped = feature_shards(tmp_path, "images")
    assert isinstance(mapped, shards.MappedFeatures)
    assert len(mapped) == rows
    chosen = torch.tensor([rows - 1, 0, 4, 4])
    assert torch.equal(mapped[chosen], feature[chosen])


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=13))
@settings(max_examples=30)
def test_rows_of_different_lengths_come_back(tmp_path_factory: pytest.TempPathFactory, lengths: list[int]) -> None:
    folder = tmp_path_factory.mktemp("packed")
    rows = [torch.arange(length) + 100 * number for number, length in enumerate(lengths)]
    write_packed(folder, rows)
    packed = PackedShards(folder, "captions")
    assert len(packed) == len(rows)
    for number, row in enumerate(rows):
        assert packed[number].tolist() == row.tolist()


def test_an_interrupted_run_keeps_its_finished_shards(tmp_path: Path) -> None:
    feature = torch.rand(10, 3)
    made: list[int] = []

    def make(part: range) -> dict[str, Tensor]:
        if part.start == 8 and 8 not in made:
            made.append(8)
            raise KeyboardInterrupt
        made.append(part.start)
        return {"feature": feature[part.start : part.stop]}

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, "images", 10, make, all_of)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-00000.safetensors", "images-00001.safetensors"]
    write_shards(tmp_path, "images", 10, make, all_of)
    assert made == [0, 4, 8, 8]
    assert torch.equal(feature_shards(tmp_path, "images")[torch.arange(len(feature))], feature)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no images-\*\.safetensors; `dvc repro features` makes them"):
        feature_shards(tmp_path, "images")


def test_half_a_shard_is_named(tmp_path: Path) -> None:
    write_features(tmp_path, 5)
    path = shard_path(tmp_path, "images", 1)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"images-00001\.safetensors: not a whole safetensors file"):
        feature_shards(tmp_path, "images")
