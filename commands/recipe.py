"""Apply a recipe to params.yaml, list the recipes, or check them all (no DVC stage)."""

from __future__ import annotations

from pathlib import Path

import click

from stages.command import stage


@click.command(name="recipe")
@click.argument("name", required=False)
@click.option(
    "--list", "wanted", flag_value="list", help="Name all recipes, grouped by what is special about a method."
)
@click.option("--check", "wanted", flag_value="check", help="Try all of them on params.yaml; write nothing.")
@stage
def main(name: str | None, wanted: str | None) -> None:
    """Put the values of recipes/NAME.yaml into params.yaml, and print what changes."""
    from pipeline.files import write_text
    from pipeline.params import load_params
    from pipeline.recipes import GROUPS, apply_recipe, check_recipes, difference, read_recipe, recipe_names

    if (name is None) == (wanted is None):
        raise click.UsageError("name a recipe, or give --list or --check")
    if wanted == "list":
        recipes = [read_recipe(known) for known in recipe_names()]
        widest = max(len(recipe.path.stem) for recipe in recipes)
        for group in GROUPS:
            click.echo(f"{group}:")
            for recipe in recipes:
                if recipe.group == group:
                    click.echo(f"  {recipe.path.stem:<{widest}}  {recipe.title}")
        return
    load_params()
    path = Path("params.yaml")
    text = path.read_text(encoding="utf-8")
    if wanted == "check":
        click.echo(f"recipes: {check_recipes(text)} fit params.yaml")
        return
    assert name is not None
    changed = apply_recipe(read_recipe(name), text)
    click.echo(difference(text, changed) or f"params.yaml is {name} already", nl=changed == text)
    if changed != text:
        write_text(path, changed)


if __name__ == "__main__":
    main()
