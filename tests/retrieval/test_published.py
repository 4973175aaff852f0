"""The carried table of published recalls."""

from __future__ import annotations

import csv

import pytest

from pipeline.retrieval.published import TABLE, published


def test_every_row_of_the_table_belongs_to_a_protocol_that_can_be_asked_for() -> None:
    asked = [("mscoco", 1), ("mscoco", 5), ("flickr30k", 1), ("flickr8k", 1), ("cc120k", 1)]
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert sum(len(published(*question)) for question in asked) == len(rows)
    assert all(row["source"] for row in rows)


def test_coco_is_asked_for_by_folds() -> None:
    assert {row.protocol for row in published("mscoco", 1)} == {"5K"}
    assert {row.protocol for row in published("mscoco", 5)} == {"1K (mean of 5 folds)"}
    assert published("mscoco", 3) == published("scenes") == published("flickr30k", 5) == []


def test_npcs_1k_column_is_the_only_known_error_and_enters_no_sum() -> None:
    assert {row.wrong for row in published("mscoco", 5)} == {("t2i_R10",)}
    assert {row.rsum for row in published("mscoco", 5)} == {None}
    for data_set in ("mscoco", "flickr30k", "cc120k", "flickr8k"):
        assert {row.wrong for row in published(data_set, 1)} == {()}


def test_a_method_of_which_only_the_sum_is_known_has_no_recalls() -> None:
    (row,) = (row for row in published("flickr30k") if row.method == "CUSA, CLIP B/32")
    assert (row.recalls, row.rsum, row.wrong) == ({}, 526.3, ())
    osa = {row.noise: row.rsum for row in published("mscoco") if row.method == "OSA, CLIP B/32"}
    assert osa == pytest.approx({0.0: 455.4, 0.2: 454.0, 0.5: 447.7})  # as the authors add them


def test_a_row_is_read_as_it_stands() -> None:
    (row,) = (row for row in published("flickr30k") if row.method == "NPC" and row.noise == 0.2)
    assert list(row.recalls.values()) == [87.3, 97.5, 98.8, 72.9, 92.1, 95.8]
    assert row.rsum == pytest.approx(544.4)
    assert row.source == "NPC README"
    assert {row.noise for row in published("cc120k")} == {None}, "real noise, of unknown extent"
