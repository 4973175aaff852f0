"""pydantic's errors about parameters, as sentences that name the key, the value and the allowed values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.yaml_text import shown

LONGEST_NAME = 80
MOST_PROBLEMS = 20  # reported at once; to find the nearest name takes time


def described(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One sentence per problem, at most twenty; for an unknown key with the nearest valid name."""
    problems = _one_a_key(error.errors(include_url=False), root)
    told = [_describe(problem, root) for problem in problems[:MOST_PROBLEMS]]
    more = len(problems) - len(told)
    return [*told, f"{more} more problems like these"] if more else told


def valid_names(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every valid dotted name in this section, including its own sections."""
    names = []
    for name, field in section.model_fields.items():
        names.append(prefix + name)
        candidates = (field.annotation, *get_args(field.annotation))
        for kind in candidates:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names += valid_names(kind, f"{prefix}{name}.")
    return names


def _one_a_key(problems: Iterable[Any], root: type[BaseModel]) -> list[dict[str, Any]]:
    """A value that fits neither of two types is one problem: "greater than 0, or 'learned'"."""
    known, found = set(valid_names(root)), dict[tuple[Any, ...], dict[str, Any]]()
    for problem in problems:
        place = tuple(problem["loc"])
        if ".".join(map(str, place)) not in known and ".".join(map(str, place[:-1])) in known and place[:-1] in found:
            found[place[:-1]]["msg"] += f", or {problem['msg'].removeprefix('Input should be ')}"
            continue
        kinds = problem["type"] not in ("extra_forbidden", "missing") and _is_union(place[:-1], root)
        place = place[:-1] if kinds else place
        found[place] = {**problem, "loc": place}
    return list(found.values())


def _is_union(place: tuple[Any, ...], root: type[BaseModel]) -> bool:
    """Whether a key may hold values of several types, so that pydantic adds the type after the key."""
    section: Any = root
    for part in place:
        if not (isinstance(section, type) and issubclass(section, BaseModel)) or part not in section.model_fields:
            return False
        section = section.model_fields[part].annotation
    return len([kind for kind in get_args(section) if kind is not type(None)]) > 1 and not isinstance(section, type)


def _describe(problem: Any, root: type[BaseModel]) -> str:
    name = ".".join(str(part)[:LONGEST_NAME] for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(name, valid_names(root), n=1, cutoff=0)
        return f"{name} = {shown(problem['input'])}: unknown key; the nearest valid name is {nearest[0]}"
    if problem["type"] == "missing":
        return f"{name}: missing"
    found = f"{name} = {shown(problem['input'])}: " if name and not isinstance(problem["input"], dict) else ""
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{found}{name + ': ' if name and not found else ''}{message[0].lower()}{message[1:]}"
