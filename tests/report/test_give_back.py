"""Cleaned data, read back by what it is written for: the library where it is installed, else its reader's rules."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from pipeline.data.acquire.sources import SOURCES
from pipeline.data.images import decode
from pipeline.data.splits.annotations import read_annotations
from pipeline.errors import InputError
from pipeline.report.cleaned import Cleaned, cleaned, data_card
from pipeline.report.give_back import FORMATS, write_triplets
from tests.data.published import jpeg
from tests.report.making import NAMES, write_audit, write_pictures


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return write_audit(tmp_path / "report")


def written(report: Path, form: str, **options: Any) -> tuple[Path, Cleaned]:
    data = cleaned(report, 0.5, 0.5, **options)
    folder = report.parent / form
    folder.mkdir()
    names = FORMATS[form](data, folder, write_pictures(report.parent).read)
    assert sorted(names) == sorted(path.name for path in folder.iterdir() if path.is_file())
    return folder, data


def pictures(layout: str, folder: Path) -> dict[str, tuple[str | None, list[str]]]:
    """What this project's own reader makes of it."""
    files = {path.name: path for path in folder.iterdir()}
    found = read_annotations(layout, files, SOURCES["folder"]).pictures
    return {picture.image: (picture.split, list(picture.captions)) for picture in found}


KEPT: dict[str, tuple[str | None, list[str]]] = {
    "red.png": ("train", ["a red square", "a warm square"]),
    "green.png": ("train", ["a green square"]),
    "blue.png": ("val", ['a "blue", square']),
    "black.png": ("test", ["a black square"]),
}


@pytest.mark.parametrize(("form", "layout"), [("pairs", "table"), ("karpathy", "karpathy"), ("fne", "fne")])
def test_untrusted_pairs_are_left_out_unless_a_person_says_they_are_right(form: str, layout: str, report: Path) -> None:
    assert pictures(layout, written(report, form)[0]) == KEPT


@pytest.mark.parametrize(("kept", "missing"), [(["train", "test"], "val"), ([], "train, val, test")])
def test_fnes_layout_without_all_splits_is_refused(kept: list[str], missing: str, report: Path) -> None:
    """This project's reader needs the three files."""
    pairs = pandas.read_parquet(report / "pairs.parquet")
    pairs = pairs[pairs["split"].isin(kept)] if kept else pairs.assign(split="all")
    pairs.to_parquet(report / "pairs.parquet")
    with pytest.raises(InputError, match=f"no pair is of {missing}; take --format karpathy or pairs"):
        written(report, "fne")


def test_with_weights_only_what_a_person_judged_wrong_is_left_out(report: Path) -> None:
    folder, _ = written(report, "pairs", weighted=True)
    table = pandas.read_csv(folder / "captions.csv")
    assert table["weight"].tolist() == [0.9, 0.8, 0.1, 1.0, 1.0, 0.6]
    assert "a lie" not in set(table["caption"])


def test_eccv_captions_own_library_reads_every_match(report: Path) -> None:
    from eccv_caption import Metrics

    folder, _ = written(report, "eccv")
    ids = json.loads((folder / "ids.json").read_text())
    truth = Metrics(extra_file_dir=str(folder)).pm_gts
    named = {
        ids["images"][int(image)]: {ids["captions"][caption]["caption"] for caption in captions}
        for image, captions in truth["i2t"].items()
    }
    assert named["red.png"] == {"a red square", "a warm square", "a green square"}
    assert named["green.png"] == {"a green square", "a red square"}, "not what was judged not to match"
    there = {(int(image), caption) for image, captions in truth["i2t"].items() for caption in captions}
    assert {(image, int(caption)) for caption, images in truth["t2i"].items() for image in images} == there


def test_the_ignore_list_holds_the_matches_and_not_what_was_judged_none(report: Path) -> None:
    table = pandas.read_json(written(report, "ignore")[0] / "ignore.jsonl", lines=True)
    assert set(zip(table["image"], table["caption"], strict=True)) == {
        ("red.png", "a green square"),
        ("green.png", "a red square"),
    }


def test_sentence_transformers_trains_on_triplets_without_false_negatives(report: Path) -> None:
    pairs = pandas.read_parquet(report / "pairs.parquet")
    grey = ("train", "grey.png", "a grey square", 1.0, "")  # the only negative of its split
    pandas.concat([pairs, pandas.DataFrame([grey], columns=list(pairs))]).to_parquet(report / "pairs.parquet")
    file = written(report, "sentence-transformers")[0] / "train.jsonl"
    rows = pandas.read_json(file, lines=True)
    assert list(rows) == ["anchor", "positive", "negative"]
    assert set(rows["anchor"]) == {"a red square", "a warm square"}
    assert set(rows["negative"]) == {"a grey square"}
    import datasets  # its first import takes seconds

    loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(report.parent / "cache"))
    assert loaded.column_names == ["anchor", "positive", "negative"]
    assert len(loaded) == len(rows)


SEA = ("the sea", "waves", "water", "a grey sea", "the sea in a storm", "a storm")
TOLD: list[tuple[object, ...]] = [
    # split, image, caption, trust, answer
    ("train", "dog.png", "a dog", 1.0, ""),
    ("train", "dog.png", "a brown dog", 1.0, ""),
    ("train", "child.png", "a child", 1.0, ""),
    ("train", "child.png", "a child in a park", 1.0, ""),
    *(("train", "sea.png", text, 1.0, "") for text in SEA),
    ("test", "boat.png", "a boat", 1.0, ""),
    ("test", "boat.png", "a red boat", 1.0, ""),
    ("test", "tree.png", "a tree", 1.0, ""),
]


def triplets(report: Path, *found: tuple[object, ...]) -> dict[str, set[tuple[str, str]]]:
    """Anchors and negatives of each file, of the captions above and these unpaired pairs."""
    pandas.DataFrame(TOLD, columns=list(pandas.read_parquet(report / "pairs.parquet"))).to_parquet(
        report / "pairs.parquet"
    )
    columns = list(pandas.read_parquet(report / "matches.parquet"))
    pandas.DataFrame(found, columns=columns).to_parquet(report / "matches.parquet")
    folder, _ = written(report, "sentence-transformers")
    tables = {path.name: pandas.read_json(path, lines=True) for path in folder.iterdir()}
    return {name: set(zip(table["anchor"], table["negative"], strict=True)) for name, table in tables.items()}


@pytest.mark.parametrize(("posterior", "answer"), [(0.9, ""), (0.02, ""), (0.02, "unsure"), (0.02, "yes")])
def test_an_anchor_that_may_match_the_negatives_picture_has_another_negative(
    posterior: float, answer: str, report: Path
) -> None:
    """`a dog` may describe the picture of the child, in which there is a dog too."""
    hard = [("train", "dog.png", text, "child.png", 0.02, "no") for text in ("a child", "a child in a park")]
    found = triplets(report, *hard, ("train", "child.png", "a dog", "dog.png", posterior, answer))["train.jsonl"]
    assert {negative for anchor, negative in found if anchor == "a dog"} <= {*SEA}
    assert ("a dog", "a child") not in found
    assert {negative for anchor, negative in found if anchor == "a brown dog"} == {"a child"}


def test_listed_captions_that_a_person_judged_not_to_match_are_the_first_negatives(report: Path) -> None:
    listed = (("water", 0.02), ("a storm", 0.9))
    found = triplets(report, *(("train", "dog.png", text, "sea.png", posterior, "no") for text, posterior in listed))
    of_the_dog = {(anchor, negative) for anchor, negative in found["train.jsonl"] if "dog" in anchor}
    assert of_the_dog == {("a dog", "water"), ("a brown dog", "a storm")}


def test_captions_that_may_match_the_picture_are_no_negatives(report: Path) -> None:
    listed = ("a child", "a child in a park", *SEA[1:])
    found = triplets(report, *(("train", "dog.png", text, "", 0.01, "") for text in listed))
    assert {negative for anchor, negative in found["train.jsonl"] if "dog" in anchor} == {"the sea"}


def test_triplets_of_one_split_are_a_file_and_have_no_caption_of_another(report: Path) -> None:
    found = triplets(report, ("train", "dog.png", "the sea", "sea.png", 0.02, ""))
    for name, split in (("train.jsonl", "train"), ("test.jsonl", "test")):
        texts = {text for part, _, text, *_ in TOLD if part == split}
        assert {text for both in found.pop(name) for text in both} <= texts
    assert not found


def test_without_a_second_caption_there_is_no_triplet(report: Path) -> None:
    alone = pandas.read_parquet(report / "pairs.parquet").drop_duplicates("image")
    alone.to_parquet(report / "pairs.parquet")
    with pytest.raises(InputError, match="no picture has two captions"):
        write_triplets(cleaned(report, 0.0, 0.5), report, lambda name: b"")


def test_open_clip_reads_paths_and_titles(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = written(report, "open_clip")
    monkeypatch.chdir(folder)
    train = data.pairs[data.pairs["split"] == "train"]["caption"].tolist()
    table = pandas.read_csv("train.csv", sep="\t")  # open_clip's defaults: tab, filepath, title
    assert table["title"].tolist() == train
    assert all(Path(path).is_file() for path in table["filepath"])
    assert pandas.read_csv("val.csv", sep="\t")["title"].tolist() == ['a "blue", square']
    from open_clip_train import data as loader

    images = loader.CsvDataset("train.csv", lambda image: image.convert("RGB").getpixel((5, 5)), "filepath", "title",
                               tokenizer=list)  # fmt: skip
    assert images[0] == ((255, 0, 0), train[0])


def test_webdataset_reads_each_pair_with_its_picture(report: Path) -> None:
    folder, data = written(report, "webdataset")
    with tarfile.open(folder / "train-00000.tar") as tar:
        names = tar.getnames()
        texts = [tar.extractfile(name).read().decode() for name in names if name.endswith(".txt")]  # type: ignore[union-attr]
    train = data.pairs[data.pairs["split"] == "train"]["caption"].tolist()
    assert texts == train
    assert names[:3] == ["000000000.png", "000000000.txt", "000000000.json"]
    import webdataset

    shards = webdataset.WebDataset(str(folder / "train-00000.tar"), shardshuffle=False).decode("pil")
    read = list(shards.to_tuple("png", "txt", "json"))
    assert [text for _, text, _ in read] == train
    assert read[0][0].getpixel((5, 5)) == (255, 0, 0)
    assert read[0][2] == {"image": "red.png", "weight": 1.0}


@pytest.mark.parametrize("form", ["open_clip", "webdataset"])
def test_a_caption_with_line_breaks_stays_one_caption(form: str, report: Path) -> None:
    pairs = pandas.read_parquet(report / "pairs.parquet")
    pairs.loc[0, "caption"] = "two lines \r\n of one caption"
    pairs.to_parquet(report / "pairs.parquet")
    folder, _ = written(report, form)
    if form == "open_clip":
        found = read_annotations("table", {"train.csv": folder / "train.csv"}, SOURCES["folder"]).pictures
        assert found[0].captions == ("two lines of one caption", "a warm square")
    else:
        with tarfile.open(folder / "train-00000.tar") as tar:
            assert tar.extractfile("000000000.txt").read() == b"two lines of one caption"  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["open_clip", "webdataset"])
def test_a_picture_whose_name_has_no_suffix_gets_that_of_its_content(form: str, report: Path) -> None:
    data, folder = cleaned(report, 0.5, 0.5), report.parent / form
    data.pairs["image"] = data.pairs["image"].map({name: f"a/00.{name[:-4]}" for name in NAMES})
    folder.mkdir()
    FORMATS[form](data, folder, lambda name: jpeg(1))
    if form == "webdataset":
        import webdataset

        shards = webdataset.WebDataset(str(folder / "train-00000.tar"), shardshuffle=False).decode("pil")
        assert [picture.size for (picture,) in shards.to_tuple("jpg")] == [decode(jpeg(1), "").size] * 3
    else:
        assert {path.suffix for path in (folder / "images").iterdir()} == {".jpg"}


def test_the_card_says_what_was_removed_and_how_sure_that_is(report: Path) -> None:
    data = cleaned(report, 0.5, 0.5)
    card = data_card(data, "pairs", ["captions.csv"], "python -m commands.clean")
    assert "2 of 7 pairs are left out" in card
    assert "2 images and captions that were not paired are known to match" in card
    assert "a person made 1 and 1; of the kept pairs 1 were looked at" in card
    assert "Of the 1 matches that nobody judged, 1 are right by their posteriors." in card
    assert "Of the 1 pairs left out that nobody judged, 1 are wrong by their trust." in card, "a lie was judged wrong"
    assert "3: pairs probably match" in card
    tables = {name: getattr(data, name).assign(answer="yes") for name in ("matches", "removed")}
    assert "nobody judged" not in data_card(replace(data, **tables), "pairs", ["captions.csv"], "")


def test_a_folder_without_an_audit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"audit\.json: not found"):
        cleaned(tmp_path, 0.5, 0.5)
