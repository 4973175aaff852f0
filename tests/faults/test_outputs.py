"""What an earlier stage wrote, or a shared server gave, and somebody changed: named, and nothing outside is touched.

DVC makes a changed output anew before a stage reads it; these are stages that somebody starts by hand.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.comparison.paired import read_queries
from pipeline.data.splits.format import write_split
from pipeline.errors import InputError, printable
from pipeline.report.gallery import read_embedded
from pipeline.report.suspects import suspected_pairs
from pipeline.training.record import read_rows
from tests.faults.guard import bounded
from tests.faults.mutations import mutated
from tests.faults.profiles import examples
from tests.report.making import COLOURS, embedded_of, split_of
from tests.stages.running import refused, run, work_in, write_tiny_params

KEY = "0" * 64
SPLIT = split_of()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after all stages but the last."""
    with pytest.MonkeyPatch.context() as patch:
        folder = work_in(tmp_path_factory.mktemp("outputs") / "clone", patch)
        write_tiny_params(folder)
        run("download", "split", "base", "features", "bank", "train", "evaluate")
    return folder


@pytest.fixture
def ready(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "clone")
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, b"") for name in ("train/history.csv", "train/validation.csv", "evaluation/similarity.csv")),
        *((name, b"\xff\xfe\n") for name in ("train/history.csv", "evaluation/similarity.csv")),
        ("train/history.csv", b"epoch,step,train/loss\n0,1,high\n"),
        ("train/history.csv", b"step\n1\n"),
        ("evaluation/similarity.csv", b"similarity\n0.5\n"),
        ("train/run.json", b"{}"),
        ("evaluation/embeddings.safetensors", b"x"),
    ],
)
def test_a_damaged_table_is_named(name: str, content: bytes, ready: Path) -> None:
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


def pairs() -> pandas.DataFrame:
    table = pandas.DataFrame({"image": [0, 1], "caption": [0, 1], "weight": [0.1, 0.2]})
    return table.astype({"image": "int32", "caption": "int32"})


def tables(folder: Path) -> dict[str, bytes]:
    """A whole example of each."""
    folder.mkdir()
    ranks().to_parquet(folder / "ranks.parquet")
    pairs().to_parquet(folder / "pairs.parquet")
    (folder / "history.csv").write_text("epoch,step,train/loss,sampler/matches\n0,1,0.5,\n0,2,0.25,3\n")
    write_split(folder / "train.json", SPLIT, one_row_a_caption=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["ranks.parquet", "pairs.parquet", "history.csv"])
def test_a_mutated_table_is_read_or_refused_by_name(name: str, tmp_path: Path) -> None:
    whole = tables(tmp_path / "whole")
    similarity = torch.eye(len(COLOURS)).tolist()

    @examples(60)
    @given(mutated({name: whole[name]}), st.none())
    def tries(files: dict[str, bytes], _: None) -> None:
        for other, content in (whole | files).items():
            (tmp_path / other).write_bytes(content)
        path = tmp_path / name
        try:
            with bounded():
                if name == "ranks.parquet":
                    read_queries(path, str(path))
                elif name == "pairs.parquet":
                    nowhere = tmp_path / "none.parquet"
                    train = tmp_path / "train.json"
                    suspected_pairs(embedded_of(similarity), "test", train, path, nowhere, 2)
                else:
                    read_rows(path)
        except InputError as error:
            assert name in str(error)

    tries()


def test_an_error_moves_no_cursor_and_writes_no_clipboard() -> None:
    assert printable("a\x1b]52;c;eA==\x07b\nç 猫 \u202e") == "a\\x1b]52;c;eA==\\x07b\nç 猫 \\u202e"
