"""Recipes: named overlays of `params.yaml`, each for a method on a dataset, in published or laptop size.

`recipes/NAME.yaml` starts with a comment, whose first line is the title, and holds nested keys of `params.yaml`. With
`extends: OTHER` it holds only the differences from that recipe. All recipes set the same parameters, so a recipe
replaces every value of an earlier one; other parameters (`data.root`, `launch`, …) stay as the user has set them.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter
from ruamel.yaml.error import YAMLError

from pipeline.errors import InputError
from pipeline.params import flat, read_params
from pipeline.yaml_text import parse_yaml

RECIPES = Path("recipes")
EXTENDS = "extends"


GROUPS = ("baselines", "which negatives (weights, margins)", "targets", "losses", "trust in pairs")
BASELINES = ("all", "hardest", "semi_hard", "random")


@dataclass(frozen=True)
class Recipe:
    """One overlay: its title, and its values by dotted name, including those of the recipes that it extends."""

    path: Path
    title: str
    values: Mapping[str, Any]

    @property
    def group(self) -> str:
        """Which tensor of the objective the method is about, one of `GROUPS`."""
        named = self.values.get
        if named("pairs.weighting", "none") != "none":
            return GROUPS[4]
        if named("targets.name", "own") != "own":
            return GROUPS[2]
        if named("sampler.strategy", "all") not in BASELINES:
            return GROUPS[1]
        plain = named("loss.name", "triplet") in ("triplet", "infonce") and named("loss.debias") is None
        return GROUPS[0] if plain else GROUPS[3]


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, as in params.yaml, not as an empty value."""


_Representer.add_representer(
    NoneType, lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def recipe_names(folder: Path = RECIPES) -> list[str]:
    """All recipes, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_recipe(name: str, folder: Path = RECIPES) -> Recipe:
    """A recipe, merged with those that it extends.

    Raises:
        InputError: for an unknown name, with the nearest; for a file that is not an overlay or does not start with a
            comment; for recipes that extend each other.
    """
    return _read(name, folder, ())


def apply_recipe(recipe: Recipe, text: str, path: Path | str = "params.yaml") -> str:
    """The content of `params.yaml` with the recipe's values; comments, order and everything else stay the same.

    Raises:
        InputError: when `text` or the result is not valid, naming the recipe, the key and the allowed values.
    """
    read_params(text, path)
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
    read_params(merged.getvalue(), recipe.path)
    return merged.getvalue()


def difference(before: str, after: str) -> str:
    """The changed lines of `params.yaml`, in the format of `diff -U0`; empty if there are none."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), "params.yaml", "params.yaml", n=0
    )
    return "".join(lines)


def check_recipes(text: str, folder: Path = RECIPES) -> int:
    """Apply every recipe to the content of `params.yaml`; returns the number of recipes.

    Raises:
        InputError: with a line for each error.
    """
    problems = []
    recipes = []
    for name in recipe_names(folder):
        try:
            recipe = read_recipe(name, folder)
            apply_recipe(recipe, text)
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
        parse_yaml(text, path)  # refuses tags that make objects
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
    return Recipe(path, title, values | flat(content))


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line break between a long value and its comment
    return yaml
