"""A person's judgments by picture and text: where they apply, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import read_judged
from pipeline.data.splits.judgments import write_judgments
from pipeline.data.splits.truth_file import read_truth, read_truths
from pipeline.errors import InputError

SPLITS = {
    "train": Split(("a.png", "b.png"), ("a dog", 'a "red", car', "a dog"), (0, 1, 1)),
    "test": Split(("c.png",), ("a dog",), (0,)),
}
HEADER = "split,image,caption,verdict,list,stratum,chosen\n"


def write(folder: Path, text: str, header: str = HEADER) -> str:
    file = folder / "judgments.csv"
    file.write_text(header + text)
    return write_judgments(str(file), SPLITS, folder)


def test_an_answer_holds_for_every_caption_with_its_words_in_the_pictures_split(tmp_path: Path) -> None:
    text = "train,a.png,a dog,yes,match,0.5–0.7,proposed\r\n"
    text += 'train,a.png,"a ""red"", car",no,match,,by hand\r\ntrain,b.png,a dog,unsure,pair,,by hand\n'
    text += ",gone.png,a dog,yes,match,,\n"
    assert write(tmp_path, text) == "judgments: 3 used, 1 of pictures or captions that are not here"
    judged = read_judged(tmp_path, "train")
    assert judged is not None
    found = zip(judged.image_J, judged.caption_J, judged.match_J, judged.own_J, judged.proposed_J, strict=True)
    assert sorted(tuple(map(int, row)) for row in found) == [(0, 0, 1, 1, 1), (0, 1, 0, 0, 0), (0, 2, 1, 0, 1)]
    assert judged.unsure is not None
    unsure = judged.unsure
    apart = zip(unsure.image_U, unsure.caption_U, unsure.own_U, unsure.proposed_U, strict=True)
    assert [tuple(map(int, row)) for row in apart] == [(1, 0, 0, 0), (1, 2, 1, 0)], "for each caption with its words"
    other = read_judged(tmp_path, "test")
    assert other is not None
    assert not len(other.image_J)


@pytest.mark.parametrize("written", ["a\r\ndog", "a\ndog", "a dog"])
def test_an_answer_about_a_caption_of_two_lines_is_found(written: str, tmp_path: Path) -> None:
    file = tmp_path / "judgments.csv"
    file.write_bytes(f'image,caption,verdict\r\na.png,"{written}",yes\r\n'.encode())
    splits = {"train": Split(("a.png",), ("a\r\ndog",), (0,))}
    assert write_judgments(str(file), splits, tmp_path) == "judgments: 1 used"


def test_judgments_are_a_truth_apart_from_the_data_sets_own(tmp_path: Path) -> None:
    write(tmp_path, "train,a.png,a dog,yes,match,,by hand\n")
    truths = read_truths(tmp_path, "train")
    assert list(truths) == ["judgments"]
    assert not truths["judgments"].exact
    assert read_truth(tmp_path, "train") is None
    assert read_truths(tmp_path, "test") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train,a.png,a dog,perhaps,match,,\n", "line 2: verdict 'perhaps', expected yes, no, unsure"),
        ("train,a.png\n", "line 2: expected 7 fields"),
        (
            "train,a.png,a dog,yes,match,,\ntrain,a.png,a dog,no,match,,\n",
            "line 3: image 'a.png' with this caption is no here and another above",
        ),
    ],
)
def test_a_wrong_row_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        write(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 'judgments.csv'}: {message}"


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'verdict'; the columns are image, caption, answer"):
        write(tmp_path, "a.png,a dog,yes\n", header="image,caption,answer\n")
