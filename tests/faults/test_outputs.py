"""What an earlier stage wrote, or a shared server gave, and somebody changed: named, and nothing outside is touched.

DVC makes a changed output anew before a stage reads it; these are stages that somebody starts by hand.
"""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import save_file

from pipeline.comparison.paired import read_queries
from pipeline.data.splits.format import write_split
from pipeline.errors import InputError, printable
from pipeline.report.gallery import read_embedded
from tests.report.making import split_of
from tests.stages.running import refused

KEY = "0" * 64
SPLIT = split_of()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train/history.csv", b""),
        ("train/validation.csv", b""),
        ("evaluation/similarity.csv", b"similarity\n0.5\n"),
        ("train/run.json", b"{}"),
        ("evaluation/embeddings.safetensors", b"x"),
    ],
)
def test_a_damaged_table_is_named(name: str, content: bytes, ready: Path) -> None:
    """Every kind of damage to a table is in tests/training/test_record.py."""
    (ready / name).write_bytes(content)
    assert name in refused("audit")


def test_a_key_that_leaves_its_folder_removes_nothing(ready: Path) -> None:
    kept = ready.parent / "kept"
    kept.mkdir()
    (kept / "file").write_text("mine")
    path = ready / "evaluation/embeddings.safetensors"
    images, captions = 6, len(pandas.read_json(ready / "data/split/test.json").explode("caption"))
    for key in ("../../kept", "../../../kept", "x/y"):
        save_file({"image_ND": torch.ones(images, 4), "text_MD": torch.ones(captions, 4)}, path, {"key": key})
        assert "embeddings.safetensors: not readable (key" in refused("audit")
    assert (kept / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.ones(4, 3), torch.ones(4, 2)),
        (torch.ones(4), torch.ones(4)),
        (torch.ones(4, 3, dtype=torch.int32), torch.ones(4, 3, dtype=torch.int32)),
        (torch.ones(4, 3), torch.ones(4, 3, dtype=torch.float64)),
        (torch.tensor(1.0), torch.ones(4, 3)),
    ],
)
def test_vectors_of_another_form_are_named(image: torch.Tensor, text: torch.Tensor, tmp_path: Path) -> None:
    write_split(tmp_path / "test.json", SPLIT, one_row_a_caption=False)
    save_file({"image_ND": image, "text_MD": text}, tmp_path / "vectors.safetensors", {"key": KEY})
    with pytest.raises(InputError, match=r"vectors\.safetensors: not readable"):
        read_embedded(tmp_path / "test.json", None, tmp_path / "vectors.safetensors")


def ranks() -> pandas.DataFrame:
    rows = {"direction": ["i2t", "t2i"], "query": [0, 0], "image": [0, 0], "fold": [0, 0], "rank": [1, 2]}
    return pandas.DataFrame(rows | {"mAP@R": [0.5, 1.0]})


@pytest.mark.parametrize("change", [{"rank": ["a", "b"]}, {"direction": ["x", "y"]}, {"mAP@R": ["a", "b"]}])
def test_ranks_that_a_server_gave_are_checked(change: dict[str, list[str]], tmp_path: Path) -> None:
    ranks().to_parquet(tmp_path / "ranks.parquet")
    assert len(read_queries(tmp_path / "ranks.parquet", "run 1")) == 2
    ranks().assign(**change).to_parquet(tmp_path / "ranks.parquet")
    with pytest.raises(InputError, match="run 1: "):
        read_queries(tmp_path / "ranks.parquet", "run 1")


def test_an_error_moves_no_cursor_and_writes_no_clipboard() -> None:
    assert printable("a\x1b]52;c;eA==\x07b\nç 猫 \u202e") == "a\\x1b]52;c;eA==\\x07b\nç 猫 \\u202e"
