"""Mutated files: a result, or the one error that names the file; no other exception, no hang, no gigabyte.

`FAULT_EXAMPLES=10000 python -m pytest tests/faults -s` tries that many for each reader, and says what became of them.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import given

from pipeline.errors import InputError
from tests.faults.guard import TooLarge, TooSlow, bounded
from tests.faults.mutations import mutated
from tests.faults.profiles import SOAK, examples
from tests.faults.readers import Reader, readers


@pytest.fixture(autouse=True, scope="module")
def arrow_has_its_memory() -> None:
    """Arrow reserves a gigabyte of addresses at its first allocation, which is no reader's."""
    pandas.DataFrame({"a": ["text"]})


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_a_mutated_file_is_read_or_refused_by_name(reader: Reader, tmp_path: Path) -> None:
    became: Counter[str] = Counter()
    folder = tmp_path / "read"

    @examples(reader.fast)
    @given(mutated(reader.files))
    def tries(files: dict[str, bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        try:
            with warnings.catch_warnings(action="ignore"), bounded():
                reader.read(folder)
            became["read"] += 1
        except InputError as error:
            assert any(name in str(error) for name in files) or str(folder) in str(error)
            became["refused"] += 1

    tries()
    if SOAK:
        print(f"{reader.name}: {became.total()} files, {became['read']} read, {became['refused']} refused")


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_the_whole_example_is_read(reader: Reader, tmp_path: Path) -> None:
    for name, content in reader.files.items():
        (tmp_path / name).write_bytes(content)
    reader.read(tmp_path)


def test_the_guard_sees_a_gigabyte_and_one_that_is_called_something_else() -> None:
    with pytest.raises(TooLarge), bounded():
        numpy.ones(1 << 28)
    with pytest.raises(TooLarge), bounded():
        try:
            numpy.ones(1 << 28)
        except MemoryError:
            raise InputError("a.jpg: does not decode") from None


def test_the_guard_sees_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.guard.SECONDS", 0.05)
    with pytest.raises(TooSlow), bounded():
        while True:
            pass
    monkeypatch.setattr("tests.faults.guard.SECONDS_WAITING", 0.05)
    with pytest.raises(TooSlow), bounded():
        time.sleep(5)  # takes no time of a processor
