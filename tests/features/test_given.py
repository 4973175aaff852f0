"""Vectors of somebody else's model: found by name and text, in any order; what does not fit is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.splits.format import Split
from pipeline.errors import InputError
from pipeline.features.given import write_given
from pipeline.features.shards import all_features

SPLITS = {
    "train": Split(("a.png", "b.png"), ("one", "two", "three"), (0, 0, 1)),
    "test": Split(("c.png",), ("one", "four"), (0, 0)),
}
IMAGES = {"c.png": [1.0, 2.0], "unknown.png": [0.0, 0.0], "a.png": [3.0, 4.0], "b.png": [5.0, 6.0]}
TEXTS = {"four": [1.0], "three": [2.0], "two": [3.0], "one": [4.0]}


def arrays(**changes: Any) -> dict[str, Any]:
    vectors = {"image": np.array([*IMAGES.values()], np.float32), "text": np.array([*TEXTS.values()], np.float64)}
    return {**vectors, "image_name": np.array([*IMAGES]), "caption": np.array([*TEXTS]), **changes}


def test_each_split_has_its_own_rows_in_its_own_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "given.npz", **arrays())
    write_given(tmp_path / "features", SPLITS, tmp_path / "given.npz")
    for name, split in SPLITS.items():
        for kind, wanted, vectors in (("images", split.images, IMAGES), ("captions", split.captions, TEXTS)):
            found = all_features(tmp_path / "features" / name, kind)
            assert torch.equal(found, torch.tensor([vectors[one] for one in wanted])), (name, kind)


def test_blanks_around_a_text_do_not_count(tmp_path: Path) -> None:
    """The reader of captions strips them, and the file has the texts of the table as it was."""
    np.savez(tmp_path / "raw.npz", **arrays(caption=np.array([" four", "three  ", "two", "\tone\n"])))
    write_given(tmp_path / "features", SPLITS, tmp_path / "raw.npz")
    assert all_features(tmp_path / "features/test", "captions").tolist() == [TEXTS["one"], TEXTS["four"]]
    blank = {name: replace(split, images=tuple(f" {one}" for one in split.images)) for name, split in SPLITS.items()}
    write_given(tmp_path / "blank", blank, tmp_path / "raw.npz")
    assert all_features(tmp_path / "blank/test", "images").tolist() == [IMAGES[one] for one in SPLITS["test"].images]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"image_name": np.array(["a.png", "b.png", "x", "y"])},
            "image_name: no vector of 'c.png', which the data set",
        ),
        ({"caption": np.array(["one", "two", "x", "four"])}, "caption: no vector of 'three', which the data set has"),
        ({"image": np.zeros(4)}, "image: shape (4,), type float64; expected a row of finite numbers each"),
        ({"text": np.zeros((4, 1), int)}, "text: shape (4, 1), type int64; expected a row of finite numbers each"),
        ({"text": np.full((4, 1), np.inf)}, "text: shape (4, 1), type float64; expected a row of finite numbers each"),
        ({"caption": np.array(["one"])}, "caption: shape (1,), type <U3; expected a text for each row of text"),
        ({"image_name": np.arange(4)}, "image_name: shape (4,), type int64; expected a text for each row of image"),
        ({"image_name": np.array([None] * 4)}, "not readable as .npz: Object arrays cannot be loaded"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    place = tmp_path / "given.npz"
    np.savez(place, **arrays(**changes))
    with pytest.raises(InputError) as refused:
        write_given(tmp_path / "features", SPLITS, place)
    assert str(refused.value).startswith(f"{place}: {said}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one.npy", "not readable as .npz: a .npy file holds one array; "),
        ("lacks.npz", "'caption is not a file in the archive'; "),
        ("other.npz", "not readable as .npz: "),
    ],
)
def test_another_file_is_told_what_is_expected(name: str, said: str, tmp_path: Path) -> None:
    place = tmp_path / name
    np.save(tmp_path / "one.npy", np.zeros((4, 2)))
    np.savez(tmp_path / "lacks.npz", **{key: value for key, value in arrays().items() if key != "caption"})
    (tmp_path / "other.npz").write_bytes(b"text")
    with pytest.raises(InputError, match=r"expected image with image_name, text with caption$") as refused:
        write_given(tmp_path / "features", SPLITS, place)
    assert str(refused.value).startswith(f"{place}: {said}")
