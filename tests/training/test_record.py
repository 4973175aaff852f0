"""A training's history as files: each value under its own name."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from pipeline.errors import InputError
from pipeline.paths import TRAIN, WEIGHTS
from pipeline.training.record import (
    best_validation,
    read_rows,
    sampling_by_epoch,
    write_history,
    write_training,
    write_validations,
)

HISTORY = [
    {"epoch": 0, "step": 2, "time": 1, "train/loss": 1.5, "sampler/cut_down_share": 0.25, "sampler/threshold": 0.5},
    {
        "epoch": 0,
        "step": 4,
        "time": 2,
        "train/loss": 0.5,
        "sampler/cut_down_share": 0.75,
        "val/rsum": 9.0,
        "val/i2t/R1": 3.0,
    },
    {"epoch": 1, "step": 6, "time": 3, "train/loss": 0.25, "val/rsum": 8.0, "val/i2t/R1": 4.0},
]


def test_the_history_has_a_column_a_name_and_leaves_out_the_clock(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", HISTORY)
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,step,sampler/cut_down_share,sampler/threshold,train/loss,val/i2t/R1,val/rsum\n"
        "0,2,0.25,0.5,1.5,,\n"
        "0,4,0.75,,0.5,3.0,9.0\n"
        "1,6,,,0.25,4.0,8.0\n"
    )


def test_the_folder_holds_the_pairs_and_nothing_of_an_earlier_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = pandas.DataFrame({"caption": [0, 1], "image": [0, 0], "weight": [0.5, 1.0]})
    write_training(HISTORY, {"key": "k"}, pairs)
    assert pandas.read_parquet(WEIGHTS).equals(pairs)
    write_training(HISTORY, {"key": "k"})
    assert sorted(path.name for path in TRAIN.iterdir()) == ["history.csv", "run.json", "validation.csv"]


def test_validations_have_names_that_a_plot_can_take(tmp_path: Path) -> None:
    write_validations(tmp_path / "validation.csv", HISTORY)
    assert (tmp_path / "validation.csv").read_text() == "epoch,step,val_i2t_R1,val_rsum\n0,4,3.0,9.0\n1,6,4.0,8.0\n"


def test_the_best_validation_is_the_highest_and_there_may_be_none(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", HISTORY)
    assert best_validation(tmp_path / "history.csv") == 9.0
    write_history(tmp_path / "history.csv", HISTORY[:1])
    assert best_validation(tmp_path / "history.csv") is None


def test_what_the_sampler_did_is_averaged_over_an_epoch(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", HISTORY)
    means = sampling_by_epoch(tmp_path / "history.csv")
    assert means.to_dict("list") == {"epoch": [0], "cut_down_share": [0.5], "threshold": [0.5]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not found"),
        (b"", "not readable as CSV"),
        (b"\xff\xfe,", "not readable as CSV"),
        (b"epoch,loss\n1,2\n", "no column 'step'"),
        (b"epoch,step,loss\n1,2,high\n", "column 'loss' holds something else than numbers"),
    ],
)
def test_a_table_that_is_none_is_named_with_the_stage_that_makes_it(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "history.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        read_rows(path)
    assert str(refusal.value).startswith(f"{path}: {said}")
    assert str(refusal.value).endswith("; run `dvc repro train`")


def test_a_table_without_rows_is_read(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,step\n")
    assert read_rows(tmp_path / "history.csv").empty
