"""Recipes: they change what they name and nothing else, leave nothing behind, and say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params import dotted, load_params, parse_params
from pipeline.recipes import apply_recipe, check_recipes, difference, read_recipe, recipe_names
from tests.stages.running import ROOT, invoke_with

PARAMS = (ROOT / "params.yaml").read_text()
BASE = """# base
train:
  lr: 2.0e-7  # small
  milestones: [5, 15]
model: {image: a/b, text: c/d}
memory: {prefill: random}
"""
OVER = "# over\n# more\nextends: base\nmodel:\n  image: null\n  text: null\nmemory: {prefill: empty}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, base=BASE, over=OVER)
    return tmp_path


def write(folder: Path, **recipes: str) -> None:
    for name, content in recipes.items():
        (folder / f"{name}.yaml").write_text(content)


def values(text: str) -> dict[str, object]:
    return dotted(parse_params(YAML(typ="safe", pure=True).load(text)))


def test_a_recipe_changes_what_it_names_and_keeps_comments_and_order(folder: Path) -> None:
    changed = apply_recipe(read_recipe("base", folder), PARAMS)
    expected = {
        "train.lr": 2e-7,
        "train.milestones": [5, 15],
        "model.image": "a/b",
        "model.text": "c/d",
        "memory.prefill": "random",
    }
    assert values(changed) == values(PARAMS) | expected
    lines = [(before, after) for before, after in zip(PARAMS.split("\n"), changed.split("\n"), strict=True)]
    assert len([before for before, after in lines if before != after]) == len(expected)
    for before, after in lines:
        assert before.partition(" #")[2] == after.partition(" #")[2]
        assert before.partition(":")[0] == after.partition(":")[0]
    removed = [line for line in difference(PARAMS, changed).split("\n") if line.startswith("-  ")]
    assert len(removed) == len(expected)


def test_nothing_to_change_changes_nothing(folder: Path) -> None:
    write(folder, same="# same\nmemory: {prefill: empty}\ntrain: {precision: 'no'}\nmodel: {width: null}\n")
    once = apply_recipe(read_recipe("same", folder), PARAMS)
    assert values(once) == values(PARAMS)
    assert apply_recipe(read_recipe("same", folder), once) == once


def test_an_extension_says_only_what_differs(folder: Path) -> None:
    recipe = read_recipe("over", folder)
    assert recipe.title == "over"
    assert recipe.values == {
        "train.lr": 2e-7,
        "train.milestones": [5, 15],
        "model.image": None,
        "model.text": None,
        "memory.prefill": "empty",
    }


def test_a_recipe_after_another_leaves_nothing_of_it_behind(folder: Path) -> None:
    over, base = (read_recipe(name, folder) for name in ("over", "base"))
    assert values(apply_recipe(over, apply_recipe(base, PARAMS))) == values(apply_recipe(over, PARAMS))
    assert check_recipes(PARAMS, folder=folder) == 2
    write(folder, less="# less\ntrain: {lr: 0.1}\n")
    with pytest.raises(InputError, match=r"less\.yaml: leaves what other recipes set .*: memory.prefill, model.image"):
        check_recipes(PARAMS, folder=folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# x\ntrain: {lrs: 0.1}\n", "bad.yaml: train.lrs = 0.1: unknown key; the nearest valid name is train.lr"),
        ("# x\ntrain: {lr: fast}\n", "bad.yaml: train.lr = 'fast'"),
        ("# x\nmodel: {image: a/b}\n", "bad.yaml: model.text is null but the other tower is named"),
        ("# x\ntrain: 3\n", "bad.yaml: train = 3: expected the section's keys"),
        ("# x\ntrain: {lr: {low: 1}}\n", "bad.yaml: train.lr.low: lr is one value, not a section"),
        ("# x\nextends: bass\n", "bad.yaml: extends: bass: no such recipe in"),
        ("# x\nextends: [base]\n", "bad.yaml: expected sections of params.yaml"),
        ("# x\nextends: bad\n", "bad.yaml: extends itself: bad > bad"),
        ("# x\n- a\n", "bad.yaml: expected sections of params.yaml"),
        ("# x\n", "bad.yaml: expected sections of params.yaml"),
        ("# x\ntrain: {lr: 1\n", "bad.yaml: not readable as YAML"),
        ("train: {lr: 0.1}\n", "bad.yaml: the first line is not a comment"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(content: str, expected: str, folder: Path) -> None:
    write(folder, bad=content)
    with pytest.raises(InputError) as refused:
        apply_recipe(read_recipe("bad", folder), PARAMS)
    assert expected in str(refused.value)
    with pytest.raises(InputError) as checked:
        check_recipes(PARAMS, folder=folder)
    assert expected in str(checked.value)


def test_a_mistake_in_params_yaml_is_not_blamed_on_the_recipe(folder: Path) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: sampler\.cutdwon"):
        apply_recipe(read_recipe("base", folder), PARAMS.replace("cutdown:", "cutdwon:"))


@pytest.mark.whole
def test_every_recipe_of_this_project_fits_its_params_yaml() -> None:
    assert check_recipes(PARAMS, folder=ROOT / "recipes") == len(recipe_names(ROOT / "recipes")) > 0


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("flickr8k-infonce", "baselines"),
        ("fne-flickr30k", "which negatives (weights, margins)"),
        ("flickr8k-lg", "which negatives (weights, margins)"),
        ("flickr8k-pseudo-positive", "targets"),
        ("flickr8k-dcl", "losses"),
        ("flickr8k-siglip", "losses"),
        ("scenes-npc", "trust in pairs"),
    ],
)
def test_a_recipe_is_listed_with_those_that_are_special_in_the_same_way(name: str, group: str) -> None:
    assert read_recipe(name, ROOT / "recipes").group == group


def test_references_differ_from_their_recipes_in_quirks_alone() -> None:
    folder = ROOT / "recipes"
    references = [name for name in recipe_names(folder) if name.endswith("-reference")]
    assert len(references) == 8
    quirks = {"seed", "data.annotations", "memory.prefill", "model.pooling", "sampler.statistics"}
    quirks |= {"sampler.known_positives", "train.schedule_counts", "train.clip", "train.lr"}
    quirks |= {f"pairs.{name}" for name in ("reweigh", "bank_loss", "exclude_self", "siamese_gradient")}
    for name in references:
        quirky, paper = read_recipe(name, folder).values, read_recipe(name.removesuffix("-reference"), folder).values
        assert {key for key in quirky if quirky[key] != paper[key]} <= quirks, name


@pytest.fixture
def clone(clone: Path) -> Path:
    (clone / "params.yaml").write_text(PARAMS)
    (clone / "recipes").mkdir()
    write(clone / "recipes", base=BASE, over=OVER)
    return clone


def test_the_command_applies_and_shows_the_difference(clone: Path) -> None:
    said = invoke_with("recipe", "base")
    assert said.exit_code == 0, said.output
    assert "-  prefill: empty " in said.output
    assert "+  prefill: random " in said.output
    assert load_params().train.lr == 2e-7
    assert invoke_with("recipe", "base").output == "params.yaml is base already\n"


def test_list_and_check_write_nothing(clone: Path) -> None:
    write(clone / "recipes", soft_targets="# soft\ntargets: {name: xclr}\nsampler: {strategy: fne}\n")
    expected = [
        "baselines:",
        "  base          base",
        "  over          over",
        "which negatives (weights, margins):",
        "targets:",
    ]
    expected += ["  soft_targets  soft", "losses:", "trust in pairs:"]
    said = invoke_with("recipe", "--list").output.splitlines()
    assert said == expected
    (clone / "recipes/soft_targets.yaml").unlink()
    assert invoke_with("recipe", "--check").output == "recipes: 2 fit params.yaml\n"
    assert (clone / "params.yaml").read_text() == PARAMS


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["bsae"], 1, "error: bsae: no such recipe in recipes/; the nearest is base; "),
        (["../recipes/base"], 1, "no such recipe"),
        ([], 2, "name a recipe, or give --list or --check"),
        (["base", "--check"], 2, "name a recipe, or give --list or --check"),
    ],
)
def test_a_name_that_is_none_changes_nothing(arguments: list[str], status: int, expected: str, clone: Path) -> None:
    said = invoke_with("recipe", *arguments)
    assert said.exit_code == status
    assert expected in said.output
    assert (clone / "params.yaml").read_text() == PARAMS
