"""Every published layout, ten images each, from its archives to test recalls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.training.record import PLACE
from tests.data.published import COPIES, Copy, fne_json, serve, unpin, write_copy_params, write_files
from tests.stages.running import STAGES, TINY_TOWERS, finite, run, work_in


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unpin(monkeypatch)
    return work_in(tmp_path / "clone", monkeypatch)


@pytest.mark.parametrize("build", COPIES.values(), ids=COPIES.keys())
def test_every_source_goes_through_all_stages(build: Callable[[Path], Copy], tmp_path: Path) -> None:
    copy = build(tmp_path / "published")
    with serve(copy.served) as mirror:
        write_copy_params(Path(), copy, mirror, **TINY_TOWERS)
        run("download")
    said = run(*STAGES[1:])  # nothing after download needs the network

    metrics = json.loads(Path("metrics.json").read_text())
    for model in ("last", "test"):
        assert finite(metrics[model])
        assert set(metrics[model]["i2t"]) == set(metrics[model]["t2i"]) == {"R1", "R5", "R10", "median_rank"}
        recalls = [metrics[model][side][cutoff] for side in ("i2t", "t2i") for cutoff in ("R1", "R5", "R10")]
        assert metrics[model]["rsum"] == pytest.approx(sum(recalls))
        assert all(0 <= recall <= 100 for recall in recalls)
    assert "truth" not in metrics["test"], "only generated scenes know every match"
    assert f"test rsum {metrics['test']['rsum']:.1f}" in said
    header = Path("train/history.csv").read_text().splitlines()[0].split(",")
    assert header[: len(PLACE)] == list(PLACE)
    assert "sampler/false_negative_share" not in header, "unknown where the truth is"


@pytest.mark.parametrize("prefix", ["flickr30k-images/", ""])
def test_fne_json_is_read_and_written_as_published(prefix: str, tmp_path: Path) -> None:
    copy = COPIES["flickr30k, FNE"](tmp_path / "published")
    assert copy.served is not None
    for name in copy.served.rglob("*.json"):
        write_files(name.parent, {name.name: fne_json(copy.expected, "flickr30k", prefix)[name.name]})
    with serve(copy.served) as mirror:
        write_copy_params(Path(), copy, mirror)
        run("download", "split")
    for split in ("train", "val", "test"):
        published = json.loads(fne_json(copy.expected, "flickr30k")[f"flickr30k_{split}.json"])
        written = json.loads(Path(f"data/split/{split}.json").read_text())
        identities = [[row.pop("image_id") for row in rows] for rows in (published, written) if split == "train"]
        assert written == published, "the same rows in the same order, an image by its base name"
        for before, after in zip(*identities, strict=True) if identities else ():
            assert isinstance(after, int)
            assert before == f"id_{after}"


def test_heads_over_frozen_features_train_on_a_published_layout(tmp_path: Path) -> None:
    copy = COPIES["flickr8k"](tmp_path / "published")
    with serve(copy.served) as mirror:
        write_copy_params(Path(), copy, mirror, **TINY_TOWERS, model__train="heads", model__width=8)
        run(*STAGES)
    assert finite(json.loads(Path("metrics.json").read_text()))
    assert json.loads(Path("models/trained/model.json").read_text())["width"] == 8
    assert not Path("models/trained/image").exists()
