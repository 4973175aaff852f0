"""YAML from a file: plain values, or one error; nothing that a few lines could blow up."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.yaml_text import MOST_BRACKETS, MOST_CHARACTERS, parse_yaml, shown
from tests.data.published import PARAMS


def test_plain_values_are_read() -> None:
    assert parse_yaml("a: [1, 2.5]\nb: {c: null}", "x.yaml") == {"a": [1, 2.5], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#" * (MOST_CHARACTERS + 1), "characters, at most"),
        ("a: " + "[" * (MOST_BRACKETS + 1), "201 opening brackets, at most 200"),
        ("a: [", "not readable as YAML"),
        ("- " * 3000, "not readable as YAML: RecursionError"),
        ("a: 2001-13-45", "not readable as YAML: ValueError"),
        ("a: !!python/object/apply:os.mkdir [x]", "not readable as YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^x\.yaml: {said}" if said.startswith("not") else rf"^x\.yaml: .*{said}"):
        parse_yaml(text, "x.yaml")


def test_aliases_that_stand_for_a_gigabyte_are_named_in_a_line(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join([PARAMS.read_text(), *lines]))
    with pytest.raises(InputError, match=r"a9 = .*: unknown key") as refusal:
        load_params(path)
    assert len(str(refusal.value)) < 20_000


def test_a_long_value_is_shown_cut() -> None:
    assert shown("ab") == "'ab'"
    assert len(shown("a" * 10_000)) <= 200
