"""Every source, ten images each, from its archives to test recalls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pandas
import pytest

from pipeline.data.splits.format import read_split
from pipeline.errors import InputError
from pipeline.report.recall_table import read_metrics
from pipeline.training.record import PLACE
from tests.data.brought import BROUGHT, parquet
from tests.data.published import (
    COPIES,
    Copy,
    flickr8k,
    fne_json,
    jpeg,
    mscoco,
    own_folder,
    serve,
    write_copy_params,
    write_files,
    write_params,
)
from tests.stages.downloading import download, packed
from tests.stages.running import STAGES, TINY_TOWERS, files_below, finite, invoke, refused, run

pytestmark = pytest.mark.usefixtures("workplace", "hub")


@pytest.mark.parametrize("build", (COPIES | BROUGHT).values(), ids=COPIES | BROUGHT)
def test_every_source_becomes_splits(build: Callable[[Path], Copy], tmp_path: Path) -> None:
    copy = build(tmp_path / "published")
    before = files_below(tmp_path / "published")
    said = download(copy)
    run("split")  # nothing after download needs the network
    assert packed() == {name: copy.content[name] for name in copy.expected}
    assert all(note in said.splitlines() for note in copy.notes)
    assert json.loads(Path("data/raw/source.json").read_text())["notes"] == copy.notes
    assert files_below(tmp_path / "published") == before, "the user's own folder is read in place"
    for name in ("train", "val", "test"):
        made = read_split(Path(f"data/split/{name}.json"))
        expected = {image: texts for image, (of, texts) in copy.expected.items() if of == name}
        if "" not in dict(copy.expected.values()):
            assert made.images == tuple(expected)
        for image, caption in zip(made.caption_image, made.captions, strict=True):
            assert caption in copy.expected[made.images[image]][1]
        assert len(made.captions) == sum(len(copy.expected[image][1]) for image in made.images)
    assert Path("data/split/truth.json").exists() == Path("data/split/truth.parquet").exists() == copy.has_truth


@pytest.mark.parametrize(
    ("train", "copy"),
    [("towers", "folder, TSV without splits"), ("heads", "flickr8k"), ("heads", "parquet on the hub")],
)
def test_pictures_of_others_go_through_all_stages(train: str, copy: str, tmp_path: Path) -> None:
    download((COPIES | BROUGHT)[copy](tmp_path / "published"), **TINY_TOWERS, model__train=train, model__width=8)
    evaluated = run(*STAGES[1:])
    metrics = read_metrics()
    for model in ("last", "test"):
        assert finite(metrics[model])
        assert set(metrics[model]["i2t"]) == set(metrics[model]["t2i"]) == {"R1", "R5", "R10", "median_rank"}
        recalls = [metrics[model][side][cutoff] for side in ("i2t", "t2i") for cutoff in ("R1", "R5", "R10")]
        assert metrics[model]["rsum"] == pytest.approx(sum(recalls))
        assert all(0 <= recall <= 100 for recall in recalls)
    assert "truth" not in metrics["test"], "only generated scenes know every match"
    assert f"test rsum {metrics['test']['rsum']:.1f}" in evaluated
    header = Path("train/history.csv").read_text().splitlines()[0].split(",")
    assert header[: len(PLACE)] == list(PLACE)
    assert "sampler/false_negative_share" not in header, "unknown where the truth is"
    assert Path("models/trained/image").exists() == (train == "towers")


@pytest.mark.parametrize("name", ["img2dataset's tars", "Chinese-CLIP's", "parquet, numbered captions"])
def test_shards_are_read_where_they_lie(name: str, tmp_path: Path) -> None:
    copy = BROUGHT[name](tmp_path / "published")
    download(copy, **TINY_TOWERS)
    assert copy.root is not None
    assert sorted(path.name for path in Path("data/raw").rglob("*.*")) == [
        *("images.parquet", "pictures.parquet", "source.json")
    ]
    kept = sorted(path for path in copy.root.iterdir() if path.name in {"00000.tar", "00001.tar", "0000.parquet"})
    kept = kept or sorted(copy.root.glob("*_imgs.tsv"))
    expected = [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest()}
        for path in kept
    ]
    assert json.loads(Path("data/raw/source.json").read_text())["shards"] == expected
    assert "features for towers (images/captions)" in run("split", "base", "features")
    kept[0].write_bytes(kept[0].read_bytes().replace(b"JFIF", b"JFIX").replace(b"SkZJRg", b"SkZJWA"))
    with pytest.raises(InputError, match="has changed since stage download"):
        packed()


def test_a_broken_image_in_a_shard_is_named_or_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    rows = [{"image": jpeg(number)[: -60 if number == 3 else None], "text": "a dog"} for number in range(5)]
    parquet(folder / "0.parquet", rows)
    copy = Copy("folder", "auto", {}, {}, folder)
    write_copy_params(Path(), copy, None)
    assert f"{folder}/0.parquet: row 3: does not decode" in refused("download")
    assert "skipped: 1 images that are missing or do not decode: 0/000000003" in download(
        copy, data__on_bad_image="skip"
    )
    assert len(packed()) == 4


def test_what_was_downloaded_is_used_again_without_a_server(tmp_path: Path) -> None:
    copy = mscoco(tmp_path / "published", "karpathy")
    download(copy)
    first = files_below(Path("data"))
    shutil.rmtree("data")
    run("download")
    assert files_below(Path("data")) == first
    assert not list(Path(".downloads").rglob("*.part*"))


def test_a_queued_experiment_shares_the_downloads_of_the_main_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = flickr8k(tmp_path / "published")
    download(copy)
    temporary = tmp_path / "experiment"
    temporary.mkdir()
    shutil.copy("params.yaml", temporary)
    monkeypatch.setenv("DVC_ROOT", str(Path.cwd()))
    monkeypatch.chdir(temporary)
    run("download")
    assert not Path(".downloads").exists()


def test_an_archive_in_the_users_folder_is_used_in_place(tmp_path: Path) -> None:
    copy = flickr8k(tmp_path / "published")
    copy.root = next((tmp_path / "published").rglob("Flickr8k_text.zip")).parent
    download(copy)
    assert packed().keys() == copy.expected.keys()
    assert not list(Path(".downloads").rglob("*.zip"))


def test_an_archive_that_has_changed_since_its_first_use_is_refused(tmp_path: Path) -> None:
    copy = flickr8k(tmp_path / "published")
    download(copy)
    kept = Path(".downloads/flickr8k/Flickr8k_text.zip")
    recorded = sha256(kept.read_bytes()).hexdigest()
    kept.write_bytes(kept.read_bytes() + b"x")
    said = refused("download")
    assert recorded in said
    assert sha256(kept.read_bytes()).hexdigest() in said
    assert str(kept) in said


def test_only_the_missing_half_of_coco_is_fetched(tmp_path: Path) -> None:
    copy = mscoco(tmp_path / "published", "karpathy")
    copy.root = tmp_path / "mine"
    write_files(copy.root, {name: data for name, data in copy.content.items() if name.startswith("train2014")})
    download(copy)
    assert packed() == copy.content
    assert sorted(path.name for path in Path(".downloads").rglob("*.zip")) == ["caption_datasets.zip", "val2014.zip"]


def test_nothing_is_fetched_where_the_folder_holds_other_images(tmp_path: Path) -> None:
    copy = mscoco(tmp_path / "published", "karpathy")
    copy.root = tmp_path / "mine"
    write_files(copy.root, {f"train2014/{number}.jpg": jpeg(number) for number in range(3)})
    with serve(copy.served) as mirror:
        write_copy_params(Path(), copy, mirror)
        said = invoke("download").output
    assert f"holds 3 images, such as {copy.root}/train2014/0.jpg" in said
    assert (
        "none that the annotations name, such as train2014/COCO_train2014_000000000000.jpg; nothing was fetched" in said
    )
    assert sorted(path.name for path in Path(".downloads").rglob("*.zip")) == ["caption_datasets.zip"]


def test_coco_images_are_found_under_the_names_that_npc_gives_them(tmp_path: Path) -> None:
    copy = mscoco(tmp_path / "published", "fne")
    copy.root = tmp_path / "mine"
    write_files(copy.root / "images", {f"COCO_2014_{name[-16:]}": data for name, data in copy.content.items()})
    download(copy)
    assert packed() == copy.content


def test_the_same_images_make_the_same_archive(tmp_path: Path) -> None:
    copy = own_folder(tmp_path / "mine", "csv")
    download(copy)
    first = files_below(Path("data"))
    for path in sorted((tmp_path / "mine/images").rglob("*.jpg"), reverse=True):
        path.touch()
    run("download")
    assert files_below(Path("data")) == first


def test_a_folder_that_changed_since_it_was_packed_is_reported(tmp_path: Path) -> None:
    copy = own_folder(tmp_path / "mine", "csv")
    write_copy_params(Path(), copy, None)
    assert "has changed" not in run("download")
    assert "has changed" not in run("download")
    write_files(tmp_path / "mine/images", {"one more.jpg": jpeg(30)})
    assert "data.root has changed since it was last packed: 10 images" in run("download")


def test_scenes_need_no_network_and_their_truth_holds_their_own_pairs() -> None:
    write_params(
        Path(), data__scenes__train=6, data__scenes__val=2, data__scenes__test=3, data__mirror="http://0.0.0.0:1"
    )
    run("download", "split")
    truth = pandas.read_parquet("data/split/truth.parquet")
    pairs = set(truth[["split", "caption", "image"]].itertuples(index=False, name=None))
    for name in ("train", "val", "test"):
        own = read_split(Path(f"data/split/{name}.json")).caption_image
        assert {(name, caption, image) for caption, image in enumerate(own)} <= pairs
    assert json.loads(Path("data/split/truth.json").read_text())["kind"] == "exact"
    assert set(truth["relevance"]) == {1.0}


@pytest.mark.parametrize("prefix", ["flickr30k-images/", ""])
def test_fne_json_is_read_and_written_as_published(prefix: str, tmp_path: Path) -> None:
    copy = COPIES["flickr30k, FNE"](tmp_path / "published")
    assert copy.served is not None
    for name in copy.served.rglob("*.json"):
        write_files(name.parent, {name.name: fne_json(copy.expected, "flickr30k", prefix)[name.name]})
    download(copy)
    run("split")
    for split in ("train", "val", "test"):
        published = json.loads(fne_json(copy.expected, "flickr30k")[f"flickr30k_{split}.json"])
        written = json.loads(Path(f"data/split/{split}.json").read_text())
        identities = [[row.pop("image_id") for row in rows] for rows in (published, written) if split == "train"]
        assert written == published, "the same rows in the same order, an image by its base name"
        for before, after in zip(*identities, strict=True) if identities else ():
            assert isinstance(after, int)
            assert before == f"id_{after}"


def test_one_picture_under_two_names_is_told(tmp_path: Path) -> None:
    copy = own_folder(tmp_path / "mine", "csv")
    write_files(tmp_path / "mine/images/holiday", {f"day {number}.jpg": jpeg(0) for number in (1, 8)})
    said = download(copy)
    names = "holiday/day 0.jpg (train) and holiday/day 1.jpg (train)"
    assert f"kept: 1 pictures that are in several splits under several names, such as {names}" in said
    assert said.splitlines()[-1] in json.loads(Path("data/raw/source.json").read_text())["notes"]


def test_a_row_that_is_there_twice_is_left_out_and_told(tmp_path: Path) -> None:
    copy = own_folder(tmp_path / "mine", "csv")
    path = tmp_path / "mine/captions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3]]))
    said = download(copy)
    assert "folder: 10 images with 50 captions (train 6, val 2, test 2), from 51 rows" in said
    assert f"left out: 1 rows that repeat an earlier one; the first is {path}: line 52" in said


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"train": 7, "test": 3}, "val is drawn from train"),
        ({"train": 7, "val": 3}, "no image is named test: val is the test split, and val is drawn from train"),
        ({"test": 10}, "all images are named test; train, val and test are drawn from them"),
    ],
)
def test_missing_splits_are_drawn_and_told(named: dict[str, int], expected: str, tmp_path: Path) -> None:
    splits = [split for split, count in named.items() for _ in range(count)]
    table = "".join(f"{number}.jpg,a dog {number},{split}\n" for number, split in enumerate(splits))
    files = {f"images/{number}.jpg": jpeg(number) for number in range(10)}
    write_files(tmp_path / "mine", files | {"a.csv": f"image,caption,split\n{table}"})
    download(Copy("folder", "auto", {}, {}, tmp_path / "mine"))
    assert run("split").splitlines()[0] == expected
    made = {split: read_split(Path(f"data/split/{split}.json")).images for split in ("train", "val", "test")}
    assert sorted(image for images in made.values() for image in images) == sorted(f"{n}.jpg" for n in range(10))
    assert [len(made[split]) for split in made] == ([6, 1, 3] if "train" in named else [8, 1, 1])
    if "train" in named:
        assert made["test"] == ("7.jpg", "8.jpg", "9.jpg")


def test_rows_of_an_image_may_lie_apart_in_a_train_file(tmp_path: Path) -> None:
    copy = own_folder(tmp_path / "mine", "fne")
    path = tmp_path / "mine/mine_train.json"
    assert fne_json(copy.expected, "mine")["mine_train.json"] == path.read_text()
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows[::2] + rows[1::2]))
    download(copy)
    run("split")
    assert len(read_split(Path("data/split/train.json")).images) == 6
