"""The table of recalls beside published ones, and the one in MLflow."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from pipeline.report.recall_table import recall_markdown
from pipeline.report.tables import recalls_table
from pipeline.retrieval.published import published


def report(value: float) -> dict[str, Any]:
    side = {"R1": value, "R5": value + 1, "R10": value + 2, "median_rank": 1.0}
    return {"i2t": side, "t2i": side, "rsum": 6 * value + 6}


def said(metrics: dict[str, Any], intervals: dict[str, Any] | None, data_set: str, folds: int = 1) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(recalls_table(metrics, intervals, published(data_set, folds)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_in_eighty_columns_no_figure_is_cut() -> None:
    interval = {"R1": [88.8, 99.9], "R5": [88.8, 99.9], "R10": [88.8, 99.9]}
    graded = {"mAP@R": [10.0, 20.0]}
    intervals = {"i2t": interval, "t2i": interval, "rsum": [500.0, 560.0], "truth": {"i2t": graded, "t2i": graded}}
    truth = {side: {"mAP@R": 15.5, "R-P": 20.0} for side in ("i2t", "t2i")}
    lines = said({"test": report(90) | {"truth": truth}, "last": report(89)}, intervals, "flickr30k")
    assert not any("…" in line for line in lines)
    (mine,) = (line.split() for line in lines if "this run " in line and "90.0" in line)
    assert mine[2:] == ["90.0", "91.0", "92.0", "90.0", "91.0", "92.0", "546.0", "15.5", "15.5"]
    (limits,) = (line.split() for line in lines if "interval" in line)
    assert limits[3:] == ["89–100"] * 6 + ["500–560"] + ["10–20"] * 2
    (npc,) = (line.split() for line in lines if "NPC, noise 0.6" in line)
    assert npc[3:] == ["83.0", "95.9", "98.6", "68.1", "89.6", "94.2", "529.4"]
    assert any(line.split()[-7:] == ["–"] * 6 + ["526.3"] for line in lines), "CUSA's sum alone is known"


def test_published_errors_are_marked_and_what_is_missing_is_said() -> None:
    lines = said({"test": report(50), "last": report(50)}, None, "mscoco", folds=5)
    assert sum(line.count("98.7†") for line in lines) == 1, "NPC's t2i R@10, not its i2t R@10"
    assert any(line.startswith("† a known error") for line in lines)
    assert any("FNE paper: unavailable" in line for line in lines)


def test_where_nothing_is_published_nothing_is_said_of_it() -> None:
    text = "\n".join(said({"test": report(50), "last": report(50)}, None, "scenes"))
    assert "published" not in text
    assert "†" not in text
    assert "mAP@R" not in text


def test_a_truth_of_one_direction_leaves_the_other_open() -> None:
    found = report(90) | {"truth": {"i2t": {"mAP@R": 15.5, "R-P": 20.0}}}
    header, _, *lines = recall_markdown({"test": found, "last": found}).splitlines()
    assert "t2i mAP@R" in header
    assert [line.replace("&emsp;", "").split("|")[-3:-1] for line in lines] == [[" 15.5 ", " – "]] * 2
