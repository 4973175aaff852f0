"""SCAN-style text: what is written is read back as the same split, noise included."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.splits.format import Split, write_split
from pipeline.data.splits.noise import Shuffle, noisy, write_noise
from pipeline.data.splits.partition import partition
from pipeline.data.splits.scan import write_scan
from pipeline.data.splits.truth_file import read_noise
from pipeline.errors import InputError
from pipeline.params import NoiseParams
from tests.data.published import CLEAN, COPIES, Copy, prepare_raw, write_copy_params

SPLITS = {
    "train": Split.of([("36979.jpg", ["a0", "a1"]), ("7.jpg", ["b0", "b1"])]),
    "val": Split.of([("5.jpg", ["c"])]),
    "test": Split.of([("9.jpg", ["d\r\nd", "e"])]),
}


def stages(copy: Copy, folder: Path, noise: NoiseParams) -> Path:
    """A copy of a data set through download and split; returns the folder of the split."""
    folder.mkdir()
    write_copy_params(folder, copy, None)
    data = prepare_raw(folder)
    partition(folder / "raw", data.split, noise, folder / "split")
    return folder / "split"


def written(folder: Path, splits: dict[str, Split], source: str = "folder", shuffle: Shuffle | None = None) -> Path:
    for name, split in splits.items():
        content = split if shuffle is None or name != "train" else noisy(split, shuffle)
        write_split(folder / f"{name}.json", content, one_row_a_caption=name == "train")
    write_noise(folder, splits["train"], CLEAN.model_copy(update={"ratio": 0.2}), None, shuffle)
    write_scan(folder, source, folder / "text")
    return folder / "text"


def text(folder: Path, name: str) -> str:
    return (folder / name).read_text()


@pytest.mark.parametrize("kept", [".npy", ".txt"])
@pytest.mark.parametrize("copy", ["folder, CSV", "flickr30k, SCAN", "mscoco, NPC", "cc120k"])
def test_what_is_written_is_read_as_the_same_split(
    copy: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    published = COPIES[copy](tmp_path / "published")
    first = stages(published, tmp_path / "first", CLEAN.model_copy(update={"ratio": 0.5}))
    again = tmp_path / "again/annotations"
    write_scan(first, published.name, again)
    assert published.root is not None
    images = published.root / ("flickr30k-images" if published.name == "flickr30k" else "images")
    shutil.copytree(images, tmp_path / "again/images")
    (file,) = again.glob(f"0.5_noise_*{kept}")
    read = Copy(published.name, "scan", {}, {}, tmp_path / "again")
    second = stages(read, tmp_path / "second", CLEAN.model_copy(update={"file": str(file)}))
    for name in ("train.json", "val.json", "test.json", "vocabulary.txt"):
        assert (second / name).read_bytes() == (first / name).read_bytes(), name
    noise, noise_again = read_noise(first), read_noise(second)
    assert noise is not None
    assert noise_again is not None
    assert noise.wrong_M.any()
    assert np.array_equal(noise.permutation_M, noise_again.permutation_M)


def test_ids_are_the_names_without_jpg_once_a_caption_but_in_train(tmp_path: Path) -> None:
    folder = written(tmp_path, SPLITS)
    assert text(folder, "train_ids.txt") == "36979\n7\n"
    assert text(folder, "train_caps.txt") == "a0\na1\nb0\nb1\n"
    assert text(folder, "test_ids.txt") == "9\n9\n"
    assert text(folder, "test_caps.txt") == "d d\ne\n", "a line break in a caption would be another caption"
    assert not (folder / "image_name.txt").exists()


def test_npc_is_given_its_names_of_flickr30k_and_coco(tmp_path: Path) -> None:
    flickr = written(tmp_path / "f", SPLITS, "flickr30k")
    assert text(flickr, "image_name.txt") == "36979.jpg\n7.jpg\n5.jpg\n9.jpg\n"
    assert text(flickr, "train_ids.txt") == "0\n1\n"
    number = "val2014/COCO_val2014_{:012d}.jpg".format
    coco = {name: Split.of([(number(i), ["a", "b"])]) for i, name in enumerate(SPLITS, 391895)}
    assert text(written(tmp_path / "c", coco, "mscoco"), "train_ids.txt") == "391895\n"


def test_noise_is_written_beside_the_true_captions(tmp_path: Path) -> None:
    folder = written(tmp_path, SPLITS, shuffle=Shuffle(np.array([2, 0, 1, 3]), 3))
    assert text(folder, "train_caps.txt") == "a0\na1\nb0\nb1\n"
    assert text(folder, "0.2_noise_train_caps.txt") == "b0\na0\na1\nb1\n"
    assert np.load(folder / "0.2_noise_index.npy", allow_pickle=False).tolist() == [2, 0, 1, 3]


def uneven(folder: Path) -> None:
    written(folder, SPLITS | {"test": Split.of([("8.jpg", ["x"]), ("9.jpg", ["y", "z"])])})


def other_captions(folder: Path) -> None:
    written(folder, SPLITS)
    written(folder, SPLITS | {"test": Split.of([("9.jpg", ["other"])])})


def other_names(folder: Path) -> None:
    (folder / "text").mkdir()
    (folder / "text/image_name.txt").touch()
    written(folder, SPLITS)


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (uneven, "test.json: SCAN-style text has no place for different numbers of captions: image '8.jpg' has 1, "),
        (other_captions, "test_ids.txt: is there already, with other content"),
        (other_names, "image_name.txt: is of another split"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_reason(
    attempt: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        attempt(tmp_path)
    assert expected in str(refused.value)
