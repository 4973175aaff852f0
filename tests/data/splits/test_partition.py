"""From raw data to splits: the seeded split, the vocabulary and the truth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.captions import clean_caption
from pipeline.data.rows import Picture, write_pictures
from pipeline.data.splits.format import Split, read_split
from pipeline.data.splits.partition import partition, seeded_split
from pipeline.data.splits.truth import write_truth
from pipeline.errors import InputError
from pipeline.params import SplitParams
from pipeline.paths import RAW
from tests.data.published import CLEAN, own_folder, prepare_raw, write_copy_params


def pictures(count: int) -> list[Picture]:
    return [Picture(f"{number}.jpg", ("a caption",), None) for number in range(count)]


def shares(val: float = 0.1, test: float = 0.2, seed: int = 1) -> SplitParams:
    return SplitParams(val=val, test=test, seed=seed)


@given(st.integers(3, 300), st.floats(0.01, 0.49), st.floats(0.01, 0.49), st.integers(0, 2**32 - 1))
def test_every_image_gets_one_split_in_the_shares_asked_for(count: int, val: float, test: float, seed: int) -> None:
    split = seeded_split(pictures(count), shares(val, test, seed), RAW)
    assert [picture.image for picture in split] == [picture.image for picture in pictures(count)]
    counts = Counter(picture.split for picture in split)
    wanted = {"val": max(1, round(val * count)), "test": max(1, round(test * count))}
    room = sum(wanted.values()) < count  # of four images, shares of 3/8 would leave none to train on
    assert all(1 <= counts[name] <= share and (counts[name] == share or not room) for name, share in wanted.items())
    assert counts["train"] == count - counts["val"] - counts["test"] >= 1


def test_the_seed_alone_decides() -> None:
    def test_images(order: list[Picture], seed: int) -> set[str]:
        return {picture.image for picture in seeded_split(order, shares(seed=seed), RAW) if picture.split == "test"}

    assert test_images(pictures(50), 1) == test_images(pictures(50)[::-1], 1)
    assert test_images(pictures(50), 1) != test_images(pictures(50), 2)


def test_two_images_cannot_be_split_in_three() -> None:
    with pytest.raises(InputError, match="data/raw: 2 images; at least 3"):
        seeded_split(pictures(2), shares(), RAW)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/raw of a folder with captions in a table without splits."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    write_copy_params(tmp_path, own_folder(tmp_path / "mine", "tsv"), None)
    prepare_raw(tmp_path)
    return tmp_path / "raw"


def test_the_vocabulary_counts_the_cleaned_words_of_the_training_captions(raw: Path, tmp_path: Path) -> None:
    partition(raw, shares(), CLEAN, tmp_path / "split")
    texts = read_split(tmp_path / "split/train.json").captions
    expected = Counter(" ".join(clean_caption(text, 1000) for text in texts).split())
    lines = (tmp_path / "split/vocabulary.txt").read_text().splitlines()
    assert lines == [f"{word}\t{expected[word]}" for word in sorted(expected)]
    assert expected["dog"] < 50, "a caption of the others has it too"


def test_an_archive_that_lacks_an_image_is_refused(raw: Path, tmp_path: Path) -> None:
    pictures = [Picture(f"{split}.jpg", ("a",), split) for split in ("train", "val", "test")]
    write_pictures(raw / "annotations/pictures.parquet", pictures)
    with pytest.raises(InputError, match=r"images\.zip: holds no image 'train\.jpg'"):
        partition(raw, shares(), CLEAN, tmp_path / "split")


SPLITS = {
    "train": Split.of([("a.jpg", ["a0", "a1"])]),
    "val": Split.of([("b.jpg", ["b0"])]),
    "test": Split.of([("c.jpg", ["c0", "c1"]), ("d.jpg", ["d0", "d1", "d2"])]),
}


def judged(folder: Path, crowd: str, expert: str = "") -> pandas.DataFrame:
    files = {"CrowdFlowerAnnotations.txt": crowd, "ExpertAnnotations.txt": expert}
    for name, content in files.items():
        (folder / name).write_text(content)
    present = {name: folder / name for name, content in files.items() if content}
    write_truth("flickr8k", present, SPLITS, folder)
    return pandas.read_parquet(folder / "truth.parquet")


def test_judgments_name_rows_of_their_split(tmp_path: Path) -> None:
    truth = judged(tmp_path, "c.jpg\td.jpg#2\t0.75\t3\t1\nd.jpg\td.jpg#0\t1\t3\t0\n", "d.jpg\tc.jpg#1\t2\t4\t3\n")
    assert truth.to_dict("list") == {
        "split": ["test"] * 3,
        "image": [0, 1, 1],
        "caption": [4, 2, 1],
        "relevance": [0.75, 1.0, 3.0],
        "source": ["crowd", "crowd", "expert"],
    }


def test_judgments_of_images_that_were_skipped_or_across_splits_are_left_out(tmp_path: Path) -> None:
    truth = judged(tmp_path, "z.jpg\tc.jpg#0\t1\t3\t0\na.jpg\tc.jpg#0\t1\t3\t0\nc.jpg\tc.jpg#1\t0\t0\t3\n")
    assert truth[["image", "caption"]].to_numpy().tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("c.jpg\td.jpg#2\t0.75\t3", "2 numbers"),
        ("c.jpg\td.jpg\t0.75\t3\t1", "expected <image>, <image>#<number>"),
        ("c.jpg\td.jpg#9\t0.75\t3\t1", "image 'd.jpg' has no caption 9"),
        ("c.jpg\td.jpg#2\t7\t3\t1", "judged 7.0, expected 0 to 1"),
        ("c.jpg\td.jpg#2\tnan\t3\t1", "judged nan"),
    ],
)
def test_a_bad_judgment_is_named(line: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        judged(tmp_path, f"c.jpg\tc.jpg#0\t1\t3\t0\n{line}\n")
    assert "CrowdFlowerAnnotations.txt: line 2" in str(refused.value)
    assert expected in str(refused.value)
