"""YAML from a file: plain values, or one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.yaml_text import parse_yaml, shown
from tests.data.published import PARAMS
from tests.faults.guard import bounded


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "while parsing"),
        ("a: 2001-13-45", "month must be in 1..12"),
        ("a: !!python/object/apply:os.mkdir [x]", "could not determine a constructor"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^x\.yaml: not readable as YAML: {said}[^\n]*$"):
        parse_yaml(text, "x.yaml")


def test_thousands_of_unknown_keys_are_told_in_twenty_lines(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text() + "".join(f"k{n}: 1\n" for n in range(3000)))
    with pytest.raises(InputError) as refusal, bounded():
        load_params(path)
    said = str(refusal.value).splitlines()
    assert len(said) == 21
    assert said[0].endswith("k0 = 1: unknown key; the nearest valid name is tracking")
    assert said[-1] == f"{path}: 2980 more problems like these"


def test_a_number_that_python_does_not_write_is_named_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("\nseed:", f"\nseed: 0x{'f' * 5000} #"))
    with pytest.raises(InputError, match="seed = a number of 20000 bits"):
        load_params(path)


def test_a_long_value_is_shown_cut() -> None:
    assert shown("ab") == "'ab'"
    assert len(shown("a" * 10_000)) <= 200
