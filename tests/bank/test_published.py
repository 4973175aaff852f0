"""Published banks become rows of a training split: image ids meet images, entries meet captions."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.lib import format as npy

from pipeline.bank.published import read_bank, read_published_bank
from pipeline.data.splits.format import Split
from pipeline.errors import InputError

pytestmark = pytest.mark.whole
COCO = ("train/COCO_2014_000000391895.jpg", "val/COCO_2014_000000000009.jpg", "train/COCO_2014_000000522418.jpg")


def split_of(images: Sequence[str], captions: int = 2) -> Split:
    return Split.of([(image, [f"caption {number} of {image}" for number in range(captions)]) for image in images])


def write_bank(folder: Path, image_entries: dict[Any, Any], text_entries: dict[Any, Any]) -> tuple[Path, Path]:
    paths = folder / "0.2_mbank_img_idx.npy", folder / "0.2_mbank_txt_idx.npy"
    for path, entries in zip(paths, (image_entries, text_entries), strict=True):
        numpy.save(path, numpy.array(entries, dtype=object))
    return paths


def every_caption(captions: int) -> dict[str, Any]:
    return {str(line): numpy.array([captions - 1 - line]) for line in range(captions)}


def test_every_kind_of_whole_number_is_read(tmp_path: Path) -> None:
    values = {
        "7": 7,
        "8": numpy.uint16(65535),
        "9": numpy.dtype(">i8").type(-5),
        "10": numpy.array([300]),
        "11": numpy.array([[300]], dtype=">i4"),  # what indexing by a top-k result leaves
        "12": numpy.array(5),
        13: numpy.int16(-2),
        numpy.int64(14): 1 << 62,
    }
    numpy.save(tmp_path / "bank.npy", numpy.array(values))
    assert read_bank(tmp_path / "bank.npy") == {str(key): numpy.array(value).item() for key, value in values.items()}


def test_a_bank_that_numpy_1_wrote_is_read(tmp_path: Path) -> None:
    """It pickled by protocol 3, and called its module otherwise."""
    bank = numpy.array({"a": numpy.array([5]), "b": numpy.int64(6)}, dtype=object)
    program = pickle.dumps(bank, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.")
    assert program.count(b"numpy.core.") == 2
    with open(tmp_path / "bank.npy", "wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(program)
    assert read_bank(tmp_path / "bank.npy") == {"a": 5, "b": 6}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": 1.5}, "key 'a': float, expected a whole number"),
        ({"a": numpy.float64(2)}, "key 'a': float"),
        ({"a": "1"}, "key 'a': str"),
        ({"a": True}, "key 'a': bool"),
        ({"a": None}, "key 'a': NoneType"),
        ({"a": {"b": 1}}, "key 'a': dict"),
        ({"a": numpy.arange(2)}, "16 bytes for one number"),
        ({("a",): 1}, "whose keys are texts or whole numbers"),
        ({"1": 1, 1: 1}, "stands there twice"),
        ([{"a": 1}, {"a": 2}], "2 values in the place of one"),
        (numpy.arange(3), "cut off, or not a dict of whole numbers"),
        (numpy.array("text", dtype=object), "found str"),
    ],
)
def test_anything_but_a_dict_of_whole_numbers_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    numpy.save(tmp_path / "bank.npy", numpy.array(content))
    with pytest.raises(InputError, match=rf"bank\.npy: .*{said}"):
        read_bank(tmp_path / "bank.npy")


def test_bytes_after_the_dict_are_refused(tmp_path: Path) -> None:
    numpy.save(tmp_path / "bank.npy", numpy.array({"0": 1}))
    with open(tmp_path / "bank.npy", "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"bank\.npy: .*something follows"):
        read_bank(tmp_path / "bank.npy")


@pytest.mark.parametrize(
    ("images", "keys"),
    [
        (COCO, ("391895", "9", "522418")),
        (COCO, (391895, 9, 522418)),
        (("007.jpg", "40.jpg", "1.jpg"), ("7", "40", "1")),  # CC120K: the id is the name
        (("red fox.jpg", "b.jpg", "c.jpg"), ("red fox", "b", "c")),
        (COCO, ("0", "1", "2")),  # rows of the split
        (("2.jpg", "0.jpg", "1.jpg"), ("2", "0", "1")),  # names and rows at once: the name is the id
    ],
)
def test_image_ids_are_found_by_name_or_by_row(tmp_path: Path, images: Sequence[str], keys: Sequence[Any]) -> None:
    paths = write_bank(tmp_path, dict(zip(keys, (5, 1, 2), strict=True)), every_caption(6))
    image_entry_N, text_entry_M = read_published_bank(*paths, split_of(images))
    assert image_entry_N.tolist() == [5, 1, 2]
    assert text_entry_M.tolist() == [5, 4, 3, 2, 1, 0]
    assert image_entry_N.dtype == text_entry_M.dtype == numpy.int64


def test_ids_that_are_lines_of_image_name_txt(tmp_path: Path) -> None:
    """Flickr30K's ids count the images of all splits, so that the training images' are no rows of the split."""
    names = tmp_path / "image_name.txt"
    names.write_text("test.jpg\n1000092795.jpg\nval.jpg\n10002456.jpg\n")
    paths = write_bank(tmp_path, {"3": 0, "1": 3}, every_caption(4))
    split = split_of(["flickr30k-images/10002456.jpg", "flickr30k-images/1000092795.jpg"])
    assert read_published_bank(*paths, split, image_names=names)[0].tolist() == [0, 3]
    with pytest.raises(InputError, match=r"mbank_img_idx\.npy: no key .*image_name\.txt"):
        read_published_bank(*paths, split)
    names.write_text("test.jpg\n1000092795.jpg\n")
    with pytest.raises(InputError, match=r"image_name\.txt: no line for .*10002456\.jpg"):
        read_published_bank(*paths, split, image_names=names)
    with pytest.raises(InputError, match=r"nowhere\.txt: not found"):
        read_published_bank(*paths, split, image_names=tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("image_entries", "text_entries", "said"),
    [
        ({"391895": 0, "9": 0}, {}, r"img_idx\.npy: no key '522418', for 'train/COCO_2014_000000522418\.jpg'"),
        ({"391895": 0, "9": 6, "522418": 0}, {}, r"img_idx\.npy: key '9': 6, .* from 0 to 5"),
        ({"391895": 0, "9": -1, "522418": 0}, {}, r"img_idx\.npy: key '9': -1, .* from 0 to 5"),
        ({"391895": 0, "9": 0, "522418": 0, "7": 0}, {}, r"img_idx\.npy: 4 keys, expected 3: '7' belongs to another"),
        ({}, {"4": None}, r"txt_idx\.npy: no key '4', for 'caption 0 of train/COCO_2014_000000522418\.jpg'"),
        ({}, {"5": 6}, r"txt_idx\.npy: key '5': 6, .* from 0 to 5"),
        ({}, {"6": 0}, r"txt_idx\.npy: 7 keys, expected 6: '6' belongs to another"),
    ],
)
def test_a_bank_that_does_not_fit_the_split_is_refused(
    tmp_path: Path, image_entries: dict[str, int], text_entries: dict[str, int | None], said: str
) -> None:
    """`text_entries` change a bank that fits: None takes a key away."""
    texts = {key: value for key, value in (every_caption(6) | text_entries).items() if value is not None}
    paths = write_bank(tmp_path, image_entries or {"391895": 0, "9": 0, "522418": 0}, texts)
    with pytest.raises(InputError, match=said):
        read_published_bank(*paths, split_of(COCO))


def test_a_key_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    paths = write_bank(tmp_path, {"1": 0, "2": 0}, every_caption(6))
    with pytest.raises(InputError, match="key '1' fits 2 of the training images"):
        read_published_bank(*paths, split_of(["a_1.jpg", "b_1.jpg", "c_2.jpg"]))
