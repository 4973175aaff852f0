"""Conditions on a run's parameters, as text: `sampler.strategy=fne`, `sampler.cutdown<=0.2`."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pipeline.errors import InputError

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"\s*([\w.-]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """A parameter's name, the relation, and the values to compare with (several only for `=` and `!=`)."""

    name: str
    relation: str
    values: tuple[str, ...]

    def holds(self, params: Mapping[str, str]) -> bool:
        """Whether these parameters fulfil it; a missing one is equal to nothing and is not a number."""
        found = params.get(self.name)
        if self.relation in ("=", "!="):
            return any(same_value(found, value) for value in self.values) == (self.relation == "=")
        number = as_number(found)
        return number is not None and _COMPARED[self.relation](number, float(self.values[0]))


def parse_condition(text: str, known: Collection[str]) -> Condition:
    """Read `NAME=VALUE[,VALUE…]`, `NAME!=…` or `NAME<NUMBER` (also `<=`, `>`, `>=`).

    Args:
        text: the condition.
        known: valid names of parameters.

    Raises:
        InputError: for another form, an unknown name (with the nearest known one), or a bound that is not a number.
    """
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise InputError(f"{text!r}: expected a parameter and a value, e.g. sampler.strategy=fne or memory.size>=512")
    name, relation, value = parts.groups()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
        hint = f"; the nearest one is {nearest[0]}" if nearest else ""
        raise InputError(f"{text!r}: the runs have no parameter {name}{hint}")
    if relation in _COMPARED and as_number(value) is None:
        raise InputError(f"{text!r}: {value!r} is no number, which {relation} needs")
    # a list such as [5,15] is one value
    values = (value,) if relation in _COMPARED or value.startswith("[") else tuple(value.split(","))
    return Condition(name, relation, tuple(part.strip() for part in values))


def as_number(value: str | None) -> float | None:
    """The finite number in a parameter's text, or None."""
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def same_value(one: str | None, other: str | None) -> bool:
    """Whether two parameters' texts have the same value, such as `1e-4` and `0.0001`, or `true` and `True`.

    Lists are compared entry by entry: `[words,near]` as people type it, `['words', 'near']` as MLflow has it.
    """
    if one is None or other is None:
        return one is other
    numbers = as_number(one), as_number(other)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if one.startswith("[") and other.startswith("["):
        entries, others = ([entry.strip(" '\"") for entry in text.strip("[] ").split(",")] for text in (one, other))
        return len(entries) == len(others) and all(map(same_value, entries, others))
    return one == other or one.lower() == other.lower() in ("true", "false")  # YAML's and MLflow's
