"""Noise: which captions move and which do not, what published indices mean, and what says so afterwards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data.splits.format import Split, read_split, write_split
from pipeline.data.splits.noise import Shuffle, make_noise, noise_file, noisy, write_noise
from pipeline.data.splits.partition import partition
from pipeline.data.splits.truth_file import read_noise, read_truth
from pipeline.errors import InputError
from pipeline.params import NoiseParams, SplitParams
from tests.data.published import own_folder, prepare_raw, write_copy_params, write_params


def params(
    ratio: float = 0.0, unit: Any = "caption", seed: int = 1, file: Path | None = None, kind: Any = "shuffle"
) -> NoiseParams:
    return NoiseParams(ratio=ratio, kind=kind, unit=unit, seed=seed, file=None if file is None else str(file))


def split_of(*counts: int) -> Split:
    """Images with so many captions each, every caption another text."""
    return Split.of([(f"{i}.jpg", [f"caption {i} {n}" for n in range(count)]) for i, count in enumerate(counts)])


def drawn(split: Split, ratio: float, unit: str = "caption", seed: int = 1) -> Shuffle:
    shuffle = make_noise(split, params(ratio, unit, seed), None)
    assert shuffle is not None
    return shuffle


def read(split: Split, file: Path) -> Shuffle:
    shuffle = make_noise(split, params(file=file), noise_file(params(file=file)))
    assert shuffle is not None
    return shuffle


@given(st.integers(1, 60), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_at_most_the_chosen_captions_move_and_none_is_lost(images: int, ratio: float, seed: int) -> None:
    split = split_of(*[5] * images)
    shuffle = drawn(split, ratio, seed=seed)
    assert sorted(shuffle.permutation_M) == list(range(5 * images))
    assert shuffle.chosen == round(ratio * 5 * images)
    assert (shuffle.permutation_M != np.arange(5 * images)).sum() <= shuffle.chosen


def test_the_seed_alone_decides_and_on_every_machine_the_same() -> None:
    split = split_of(2, 2, 2)
    assert drawn(split, 1.0).permutation_M.tolist() == [4, 2, 0, 5, 3, 1]
    assert drawn(split, 1.0, seed=2).permutation_M.tolist() != [4, 2, 0, 5, 3, 1]


def test_nearly_all_chosen_captions_of_a_large_split_are_wrong() -> None:
    split = split_of(*[5] * 800)
    shuffle = drawn(split, 0.4)
    image_M = np.array(split.caption_image)
    assert shuffle.chosen == 1600
    assert 1580 < (image_M[shuffle.permutation_M] != image_M).sum() <= 1600


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.floats(0.01, 1), st.integers(0, 99))
def test_whole_images_exchange_all_their_captions_with_images_of_as_many(
    counts: list[int], ratio: float, seed: int
) -> None:
    split = split_of(*counts)
    shuffle = drawn(split, ratio, "image", seed)
    given_to: dict[int, list[str]] = {}
    for image, caption in zip(split.caption_image, noisy(split, shuffle).captions, strict=True):
        given_to.setdefault(image, []).append(caption)
    groups = [tuple(f"caption {image} {n}" for n in range(count)) for image, count in enumerate(counts)]
    assert Counter(map(tuple, given_to.values())) == Counter(groups)
    assert [len(given_to[image]) for image in range(len(counts))] == counts


def test_ratio_0_is_no_noise(tmp_path: Path) -> None:
    split = split_of(2, 2)
    assert make_noise(split, params(), None) is None
    assert write_noise(tmp_path, split, params(), None, None) == ""
    assert read_noise(tmp_path) is None
    record = json.loads((tmp_path / "noise.json").read_text())
    assert record["ratio"] == record["chosen"] == record["wrong"] == 0
    assert record["permutation"] is record["true_image"] is record["file"] is None


def test_the_record_says_which_rows_are_wrong(tmp_path: Path) -> None:
    split = split_of(2, 2)
    shuffle = Shuffle(np.array([1, 2, 0, 3]), 3)
    write_split(tmp_path / "train.json", noisy(split, shuffle), one_row_a_caption=True)
    line = write_noise(tmp_path, split, params(0.75), None, shuffle)
    assert line == "noise: 3 of 4 captions shuffled, 2 wrong"
    noise = read_noise(tmp_path)
    assert noise is not None
    assert noise.permutation_M.tolist() == [1, 2, 0, 3]
    assert noise.true_image_M.tolist() == [0, 1, 0, 1]
    assert noise.wrong_M.tolist() == [False, True, True, False]
    assert noise.ratio == 0.75


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"permutation": [0], "true_image": null}'])
def test_a_record_that_is_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "noise.json").write_text(content)
    with pytest.raises(InputError, match=r"noise\.json: (not readable|expected an object)"):
        read_noise(tmp_path)


def index(folder: Path, values: Any) -> Path:
    np.save(folder / "index.npy", np.asarray(values))
    return folder / "index.npy"


def test_an_index_of_captions_is_the_permutation(tmp_path: Path) -> None:
    shuffle = read(split_of(2, 1), index(tmp_path, np.array([2, 1, 0], np.uint8)))
    assert (shuffle.permutation_M.tolist(), shuffle.kind, shuffle.chosen) == ([2, 1, 0], "permutation", 2)


def rows_of(permutation_M: NDArray[np.int64], split: Split) -> list[int]:
    """The image that each caption is put with: NCR's convention, the obvious way."""
    put_with = [0] * len(split.captions)
    for row, caption in enumerate(permutation_M):
        put_with[caption] = split.caption_image[row]
    return put_with


@settings(max_examples=30)
@given(counts=st.lists(st.integers(2, 4), min_size=2, max_size=20), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_an_index_of_images_puts_every_caption_with_its_image(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], ratio: float, seed: int
) -> None:
    split = split_of(*counts)
    permutation_M = drawn(split, max(ratio, 0.01), seed=seed).permutation_M
    put_with = rows_of(permutation_M, split)
    shuffle = read(split, index(tmp_path_factory.mktemp("index"), put_with))
    assert shuffle.kind == "image_index"
    assert rows_of(shuffle.permutation_M, split) == put_with
    stay = [row for row, image in enumerate(put_with) if image == split.caption_image[row]]
    assert shuffle.permutation_M[stay].tolist() == stay


def test_an_index_with_an_entry_for_each_image_moves_all_its_captions(tmp_path: Path) -> None:
    split = split_of(2, 2, 3, 2)
    shuffle = read(split, index(tmp_path, [3, 1, 2, 0]))
    assert shuffle.kind == "image_permutation"
    assert rows_of(shuffle.permutation_M, split) == [3, 3, 1, 1, 2, 2, 2, 0, 0]
    assert noisy(split, shuffle).captions[:2] == ("caption 3 0", "caption 3 1")
    with pytest.raises(InputError, match="0 occurs 3 times, image 0 has 2 captions"):
        read(split, index(tmp_path, [2, 1, 0, 3]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2], "shape (3,), expected (4,): a number for each training caption"),
        ([[0, 1], [2, 3]], "shape (2, 2)"),
        ([0.0, 1.0, 2.0, 3.0], "holds float64, expected whole numbers"),
        ([True, False, True, False], "holds bool"),
        ([0, 1, 2, 4], "entry 3 is 4, expected captions 0 to 3"),
        ([0, 1, 2, -1], "entry 3 is -1"),
        ([0, 0, 0, 1], "0 occurs 3 times, image 0 has 2 captions"),
        ([0, 1, 2, 2], "0 occurs 1 times, image 0 has 2 captions"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(values: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read(split_of(2, 2), index(tmp_path, values))
    assert expected in str(refused.value)
    assert "index.npy" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<i8'}"])
def test_a_damaged_index_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"index\.npy: not readable as \.npy"):
        read(split_of(2, 2), tmp_path / "index.npy")


def test_an_index_with_objects_is_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not readable as"):
        read(split_of(2), index(tmp_path, np.array([0, 1], dtype=object)))


def test_noisy_captions_are_found_again_and_equal_texts_stay_where_they_can(tmp_path: Path) -> None:
    split = Split.of([("a.jpg", ["x", "same"]), ("b.jpg", ["same", "y"]), ("c.jpg", ["same", "z"])])
    (tmp_path / "0.4_noise_train_caps.txt").write_text("same\nx\nsame\nz\ny\nsame\n")
    shuffle = read(split, tmp_path / "0.4_noise_train_caps.txt")
    assert shuffle.permutation_M.tolist() == [1, 0, 2, 5, 3, 4]
    assert shuffle.kind == "captions"


def test_noisy_captions_that_have_line_breaks_are_those_that_export_wrote(tmp_path: Path) -> None:
    split = Split.of([("x.jpg", ["a\r\nman", "a \n dog", "a cat"])])
    (tmp_path / "caps.txt").write_text("a cat\na man\na dog\n")
    assert read(split, tmp_path / "caps.txt").permutation_M.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n", "2 lines, expected one for each of 3"),
        ("a\nb\nd\n", "line 3: 'd' is none of the training captions"),
        ("a\nb\nb\n", "line 3: 'b' occurs more often than in the training captions"),
    ],
)
def test_noisy_captions_that_do_not_fit_are_named(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "caps.txt").write_text(text)
    with pytest.raises(InputError) as refused:
        read(Split.of([("x.jpg", ["a", "b", "c"])]), tmp_path / "caps.txt")
    assert f"caps.txt: {expected}" in str(refused.value)


def test_a_file_is_looked_for_in_the_main_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    index(tmp_path, [1, 0])
    assert noise_file(params(file=Path("index.npy"))) == tmp_path / "index.npy"
    for missing in (Path("other.npy"), tmp_path):
        with pytest.raises(InputError, match=r"data\.noise\.file = .*: no such file"):
            noise_file(params(file=missing))
    (tmp_path / "index.csv").touch()
    with pytest.raises(InputError, match=r"expected an index \(\.npy\) or noisy captions \(\.txt\)"):
        noise_file(params(file=Path("index.csv")))


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_noise_changes_nothing_but_the_training_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    write_copy_params(tmp_path, own_folder(tmp_path / "mine", "csv"), None)
    prepare_raw(tmp_path)
    shares = SplitParams(val=0.1, test=0.1, seed=1)
    said = {}
    for name, noise in {"clean": params(), "noisy": params(0.5)}.items():
        said[name] = partition(tmp_path / "raw", shares, noise, tmp_path / name)
    clean, changed = parts(tmp_path / "clean"), parts(tmp_path / "noisy")
    assert {name for name in clean if clean[name] != changed[name]} == {"train.json", "noise.json"}
    assert [line for line in said["noisy"] if line not in said["clean"]] == [
        "noise: 15 of 30 captions shuffled, 10 wrong"
    ]
    before, after = (read_split(tmp_path / name / "train.json") for name in ("clean", "noisy"))
    noise_read = read_noise(tmp_path / "noisy")
    assert noise_read is not None
    assert after.images == before.images
    assert after.caption_image == before.caption_image
    assert after.captions == tuple(before.captions[caption] for caption in noise_read.permutation_M)


def test_the_truth_follows_the_captions(tmp_path: Path) -> None:
    write_params(tmp_path, data__scenes__train=12, data__scenes__val=4, data__scenes__test=4, data__scenes__size=32)
    data = prepare_raw(tmp_path)
    pairs = {}
    for name, noise in {"clean": params(), "noisy": params(0.6)}.items():
        partition(tmp_path / "raw", data.split, noise, tmp_path / name)
        truth = read_truth(tmp_path / name, "train")
        assert truth is not None
        captions = read_split(tmp_path / name / "train.json").captions
        pairs[name] = Counter((image, captions[row]) for image, row in zip(truth.image_P, truth.caption_P, strict=True))
    assert pairs["noisy"] == pairs["clean"]
    tables = [pandas.read_parquet(tmp_path / name / "truth.parquet") for name in pairs]
    rest = [table[table["split"] != "train"].reset_index(drop=True) for table in tables]
    pandas.testing.assert_frame_equal(rest[0], rest[1])
