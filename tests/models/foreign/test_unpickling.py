"""A published bank is read as data: what `numpy.save` writes of a dict of whole numbers, and nothing that can run."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest

from pipeline.errors import InputError
from pipeline.models.foreign import unpickling
from pipeline.models.foreign.unpickling import read_numpy_dict
from tests.faults.guard import bounded


def saved(path: Path, content: Any) -> Path:
    """As NPC's script saves its banks."""
    numpy.save(path, content)
    return path


def pickled(path: Path, content: bytes) -> Path:
    """A file with numpy's own header of a dict, and any pickle after it."""
    header = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header.getvalue() + content)
    return path


class Runs:
    """What a pickle can do: this one creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "number",
    [
        int,
        numpy.int32,
        numpy.int64,
        numpy.uint16,
        numpy.dtype(">i8").type,
        lambda value: numpy.array([value]),
        lambda value: numpy.array([[value]], dtype=">i4"),  # what indexing by a top-k result leaves
        numpy.array,
    ],
)
def test_every_kind_of_whole_number_is_read(tmp_path: Path, number: Any) -> None:
    bank = {"391895": 7, "12": 300, "0": 65535}
    path = saved(tmp_path / "bank.npy", {key: number(value) for key, value in bank.items()})
    assert read_numpy_dict(path) == bank


def test_negative_numbers_and_keys_that_are_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "bank.npy", {3: numpy.int16(-2), numpy.int64(4): -5})
    assert read_numpy_dict(path) == {"3": -2, "4": -5}


def test_a_bank_that_numpy_1_wrote_is_read(tmp_path: Path) -> None:
    """It pickled by protocol 3, and called its module otherwise."""
    bank = numpy.array({"a": numpy.array([5]), "b": numpy.int64(6)}, dtype=object)
    text = pickle.dumps(bank, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core.")
    assert text.count(b"numpy.core.") == 2
    assert read_numpy_dict(pickled(tmp_path / "bank.npy", text)) == {"a": 5, "b": 6}


def test_a_pickle_that_would_run_something_does_not(tmp_path: Path) -> None:
    created = tmp_path / "created"
    for content in (Runs(created), {"a": Runs(created)}, {"a": 1, "b": numpy.array([Runs(created)], object)}):
        path = saved(tmp_path / "bank.npy", content)
        with pytest.raises(InputError, match=r"bank\.npy.*mkdir.*refused"):
            read_numpy_dict(path)
    assert not created.exists()
    numpy.load(path, allow_pickle=True)
    assert created.exists()  # it would have


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"(Vx\nios\nsystem\n.", "os.system"),
        (b"cnumpy\nload\n(Vx\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.", r"dtype\.__class__"),
    ],
)
def test_a_refusal_names_what_the_file_asked_for(tmp_path: Path, text: bytes, named: str) -> None:
    with pytest.raises(InputError, match=rf"bank\.npy.*{named}.*refused"):
        read_numpy_dict(pickled(tmp_path / "bank.npy", text))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": 1.5}, "key 'a': float"),
        ({"a": numpy.float64(2)}, "no whole numbers"),
        ({"a": "1"}, "key 'a': str"),
        ({"a": True}, "key 'a': bool"),
        ({"a": None}, "key 'a': NoneType"),
        ({"a": 1 << 63}, "key 'a': int"),
        ({"a": numpy.arange(2)}, "several numbers"),
        ({"a": {"b": 1}}, "key 'a': dict"),
        ({("a",): 1}, "a key is a tuple"),
        ({"1": 1, 1: 1}, "'1' stands there twice"),
        (numpy.array([{"a": 1}], dtype=object), r"shape \(1,\)"),
        (numpy.arange(3), "type int64"),
        (numpy.array("text", dtype=object), "found str"),
    ],
)
def test_anything_but_a_dict_of_whole_numbers_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"bank\.npy.*{said}"):
        read_numpy_dict(saved(tmp_path / "bank.npy", content))


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.npy", {"0": numpy.int64(1), "1": 2}).read_bytes()
    path = tmp_path / "cut.npy"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.npy"):
            read_numpy_dict(path)


def test_bytes_after_the_dict_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "bank.npy", {"0": 1})
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="something follows"):
        read_numpy_dict(path)


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not found"):
        read_numpy_dict(tmp_path / "bank.npy")
    path = saved(tmp_path / "bank.npy", {"0": 1})
    monkeypatch.setattr(unpickling, "MOST_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="at most"):
        read_numpy_dict(path)


def test_an_index_that_would_fill_the_memory_costs_nothing(tmp_path: Path) -> None:
    """C's unpickler would reserve 32 GiB for the memo of these seven bytes."""
    path = pickled(tmp_path / "bank.npy", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(InputError, match="a dict in the place of an array"):
        read_numpy_dict(path)


PRIME = (1 << 61) - 1
"""Python hashes a whole number modulo this one."""


@pytest.mark.parametrize("code", [pickle.LONG1, pickle.LONG4, pickle.LONG, pickle.INT])
def test_keys_that_were_chosen_to_collide_are_refused_at_once(tmp_path: Path, code: bytes) -> None:
    numbers = [number * PRIME for number in range(1, 60_000)]
    lengths = {pickle.LONG1: b"\x0a", pickle.LONG4: b"\x0a\0\0\0"}
    if code in lengths:
        keys = [code + lengths[code] + number.to_bytes(10, "little") for number in numbers]
    else:
        keys = [code + str(number).encode() + b"\n" for number in numbers]
    path = pickled(tmp_path / "bank.npy", b"\x80\x02}(" + b"".join(key + b"K\x01" for key in keys) + b"u.")
    with pytest.raises(InputError, match=r"bank\.npy: .*a number of more than 64 bits"), bounded():
        read_numpy_dict(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"}K\x01\x85K\x01s.", "a key is a tuple"),
        (b"}(K\x01\x85K\x01u.", "a key is a tuple"),
        (b"(K\x01\x85K\x01d.", "a key is a tuple"),
        (b"\x8f(K\x01\x85\x90.", "writes it: 143$"),
        (b"(K\x01\x85\x91.", "writes it: 145$"),
    ],
)
def test_nothing_that_can_be_chosen_to_collide_becomes_a_key(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_numpy_dict(pickled(tmp_path / "bank.npy", b"\x80\x04" + text))


def test_a_shape_whose_product_would_not_end_is_refused(tmp_path: Path) -> None:
    shape = b"(" + (b"\x8a\x08" + b"\xff" * 7 + b"\x7f") * 300_000 + b"t"
    array = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\x01" + shape + b"NNNtb."
    with pytest.raises(InputError, match="several numbers"), bounded():
        read_numpy_dict(pickled(tmp_path / "bank.npy", b"\x80\x02" + array))
