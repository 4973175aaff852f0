"""The bank on disk: what is written for the images stays theirs."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from pipeline.bank.table import read_bank, write_bank
from pipeline.errors import InputError

ROWS = {
    "caption": [0, 1, 2],
    "image": [0, 1, 1],
    "loss": [0.5, 0.25, 2.0],
    "clean_probability": [0.75, 1.0, 0.0],
    "clean": [True, True, False],
    "image_entry": [1, 0, 0],
    "text_entry": [2, 2, 1],
}


def test_entries_for_images_and_for_captions_are_not_confused(tmp_path: Path) -> None:
    write_bank(tmp_path, pandas.DataFrame(ROWS))
    bank = read_bank(tmp_path, 3)
    assert bank.image_entry_M.tolist() == ROWS["image_entry"]
    assert bank.text_entry_M.tolist() == ROWS["text_entry"]
    assert [entries.tolist() for entries in bank.entries] == [ROWS["image_entry"], ROWS["text_entry"]]
    assert bank.clean_probability_M.tolist() == ROWS["clean_probability"]


@pytest.mark.parametrize("change", [{"caption": [0, 2, 1]}, {"image_entry": [1, 0, 3]}, {"text_entry": [-1, 2, 1]}])
def test_a_bank_of_another_split_is_refused(tmp_path: Path, change: dict[str, list[int]]) -> None:
    write_bank(tmp_path, pandas.DataFrame(ROWS | change))
    with pytest.raises(InputError, match="expected one for each of the 3 training captions"):
        read_bank(tmp_path, 3)
