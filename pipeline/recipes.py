"""Recipes: overlays of `params.yaml` that give a method on a data set, published or laptop-sized, its name.

`recipes/NAME.yaml` opens with a comment, its first line the title, and holds nested keys of `params.yaml`. With
`extends: OTHER` it starts from that recipe and says only what differs. All recipes set the same parameters, so that one
applied after another leaves nothing of it behind; the rest (`data.root`, `launch`, …) stays as the user has it.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter
from ruamel.yaml.error import YAMLError

from pipeline.errors import InputError
from pipeline.params import parse_params
from pipeline.yaml_text import parse_yaml

RECIPES = Path("recipes")
EXTENDS = "extends"


@dataclass(frozen=True)
class Recipe:
    """One overlay: its title, and its values by dotted name, those of the recipes it extends included."""

    path: Path
    title: str
    values: Mapping[str, Any]


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, as params.yaml does, not as nothing."""


_Representer.add_representer(
    NoneType, lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def recipe_names(folder: Path = RECIPES) -> list[str]:
    """All recipes, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_recipe(name: str, folder: Path = RECIPES) -> Recipe:
    """A recipe with what it extends.

    Raises:
        InputError: for a name that is none, with the nearest; for a file that is no overlay or has no opening comment;
            for recipes that extend each other.
    """
    return _read(name, folder, ())


def apply_recipe(recipe: Recipe, text: str, path: Path | str = "params.yaml") -> str:
    """The content of `params.yaml` with the recipe's values; comments, order and everything else as they were.

    Raises:
        InputError: when `text` is not valid, or the result is not: naming the recipe, the key and what is allowed.
    """
    _check(text, path)
    round_trip = _round_trip()
    content = round_trip.load(text)
    for name, value in recipe.values.items():
        *sections, key = name.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"{recipe.path}: {name}: {part} is one value, not a section")
        if isinstance(section.get(key), dict):
            raise InputError(f"{recipe.path}: {name} = {value!r}: expected the section's keys")
        section[key] = value
    merged = io.StringIO()
    round_trip.dump(content, merged)
    _check(merged.getvalue(), recipe.path)
    return merged.getvalue()


def difference(before: str, after: str, path: Path | str = "params.yaml") -> str:
    """The lines that change, as `diff -U0` prints them; empty where none does."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), str(path), n=0
    )
    return "".join(lines)


def check_recipes(text: str, path: Path | str = "params.yaml", folder: Path = RECIPES) -> int:
    """Try every recipe on the content of `params.yaml`; returns how many there are.

    Raises:
        InputError: with a line for each thing that is wrong.
    """
    problems = []
    recipes = []
    for name in recipe_names(folder):
        try:
            recipe = read_recipe(name, folder)
            apply_recipe(recipe, text, path)
            recipes.append(recipe)
        except InputError as error:
            problems.append(str(error))
    everything = {name for recipe in recipes for name in recipe.values}
    for recipe in recipes:
        if missing := sorted(everything - recipe.values.keys()):
            problems.append(f"{recipe.path}: leaves what other recipes set as it finds it: {', '.join(missing)}")
    if problems:
        raise InputError("\n".join(problems))
    return len(recipes)


def _read(name: str, folder: Path, extending: tuple[str, ...]) -> Recipe:
    names = recipe_names(folder)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)
        hint = f"; the nearest is {nearest[0]}; `python -m commands.recipe --list` names all" if nearest else ""
        whose = f"{folder / extending[-1]}.yaml: {EXTENDS}: " if extending else ""
        raise InputError(f"{whose}{name}: no such recipe in {folder}/{hint}")
    path = folder / f"{name}.yaml"
    if name in extending:
        raise InputError(f"{path}: extends itself: {' > '.join((*extending, name))}")
    try:
        text = path.read_text(encoding="utf-8")
        parse_yaml(text, path)  # refuses what would make objects
        content = _round_trip().load(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get(EXTENDS, ""), str):
        raise InputError(f"{path}: expected sections of params.yaml and, if wanted, `{EXTENDS}: NAME`")
    title = text.partition("\n")[0].removeprefix("#").strip()
    if not text.startswith("#") or not title:
        raise InputError(f"{path}: the first line is not a comment that says what this is a recipe for")
    base = content.pop(EXTENDS, None)
    values = {} if base is None else dict(_read(base, folder, (*extending, name)).values)
    return Recipe(path, title, values | dict(_leaves(content)))


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check(text: str, path: Path | str) -> None:
    content = parse_yaml(text, path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}, expected sections")
    parse_params(content, path)


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096  # a long value keeps its line, and the comment behind it
    return yaml
