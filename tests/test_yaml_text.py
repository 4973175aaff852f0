"""YAML from a file: plain values, or one error; nothing that a few lines could blow up."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.yaml_text import MOST_BRACKETS, MOST_CHARACTERS, parse_yaml, shown
from tests.data.published import PARAMS
from tests.faults.guard import bounded


def test_plain_values_are_read() -> None:
    assert parse_yaml("a: [1, 2.5]\nb: {c: null}", "x.yaml") == {"a": [1, 2.5], "b": {"c": None}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#" * (MOST_CHARACTERS + 1), "characters, at most"),
        ("a: " + "[" * (MOST_BRACKETS + 1), "201 opening brackets, at most 200"),
        ("a: [", "not readable as YAML"),
        ("- " * 3000, "more than 50 lists in lists"),
        ("a: &a {k: 1}\n" + "".join(f"b{n}: {{<<: [*a, *a]}}\n" for n in range(6)), r"12 times \*NAME, .* at most 10"),
        ("a: 2001-13-45", "not readable as YAML: ValueError"),
        ("a: !!python/object/apply:os.mkdir [x]", "not readable as YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^x\.yaml: {said}" if said.startswith("not") else rf"^x\.yaml: .*{said}"):
        parse_yaml(text, "x.yaml")


def test_a_few_aliases_and_stars_elsewhere_are_read() -> None:
    text = "# " + "* star *s*\n# *x " * 5 + "\na: &a [1]\nb: *a\nc: {<<: {d: 2}}\ne: a*b*c"
    assert parse_yaml(text, "x.yaml") == {"a": [1], "b": [1], "c": {"d": 2}, "e": "a*b*c"}


@pytest.mark.parametrize("merged", [False, True])
def test_aliases_that_stand_for_a_gigabyte_are_refused_at_once(tmp_path: Path, merged: bool) -> None:
    lines = ["a0: &a0 {k: 1}" if merged else "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 10):
        repeated = f"[{', '.join([f'*a{n - 1}'] * 10)}]"
        lines.append(f"a{n}: &a{n} " + (f"{{<<: {repeated}}}" if merged else repeated))
    path = tmp_path / "params.yaml"
    path.write_text("\n".join([PARAMS.read_text(), *lines]))
    with pytest.raises(InputError, match=r"params\.yaml: 90 times \*NAME"), bounded():
        load_params(path)


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
