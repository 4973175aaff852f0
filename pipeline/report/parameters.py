"""The table of every parameter in docs/parameters.md: `python -m pipeline.report.parameters` prints it.

Names and defaults come from `params.yaml`, allowed values from `pipeline.params`, meanings from the comments in
`params.yaml`. `--write docs/parameters.md` replaces the table between the file's two markers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.params import Params, dotted, parse_params
from pipeline.yaml_text import parse_yaml

MARKER = "parameters"
HEADING = ("| name | default | allowed | meaning |", "|---|---|---|---|")

# For parameters without a comment in params.yaml, or with only the allowed values; a comment there takes precedence.
UNCOMMENTED = {
    "data.name": "the data set, see [data](data.md)",
    "data.split.val": "share of images for validation, where a data set names no split itself",
    "data.split.test": "the same for the test split",
    "data.split.seed": "draws these images",
    "train.warmup": "the loss of the warm-up epochs",
    "train.precision": "no: 32 bit; bf16 and fp16: mixed; fp16 needs a GPU",
}


def table_of(text: str, path: Path | str = "params.yaml") -> str:
    """Markdown: a row for each parameter of a file's content, in its order; `path` is for messages only.

    Raises:
        InputError: when the content does not fit the parameters, or a parameter has no description.
    """
    lines = [*HEADING]
    for row in rows_of(text, path):
        default = "null" if row.default is None else row.default
        meaning = row.meaning.replace("|", r"\|")
        lines.append(f"| `{row.name}` | `{default}` | {row.allowed} | {meaning} |")
    return "\n".join(lines)


class Row(NamedTuple):
    """A parameter: dotted name, value in the file, allowed values (Markdown), meaning."""

    name: str
    default: Any
    allowed: str
    meaning: str


def rows_of(text: str, path: Path | str = "params.yaml") -> list[Row]:
    """Each parameter of a file's content, in its order; raises as `table_of`."""
    from ruamel.yaml import YAML

    defaults = dotted(parse_params(parse_yaml(text, path), path))
    comments = dict(_comments(YAML().load(text), text.splitlines(), ""))
    allowed = dict(_allowed(Params.model_json_schema()))
    return [
        Row(name, default, allowed[name], _meaning(name, comments.get(name, ""), path))
        for name, default in defaults.items()
    ]


def between_markers(page: str, path: Path | str, name: str) -> tuple[str, str, str]:
    """The text up to the marker `<!-- name -->` (included), what it holds, and the text from `<!-- /name -->` on.

    Raises:
        InputError: when a marker is missing or occurs twice.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    for marker in (start, end):
        if page.count(marker) != 1:
            raise InputError(f"{path}: found {page.count(marker)} lines {marker}, expected one")
    before, _, rest = page.partition(start)
    held, _, after = rest.partition(end)
    return before + start, held.strip("\n"), end + after


def _comments(section: Any, lines: list[str], prefix: str) -> Iterator[tuple[str, str]]:
    """Each parameter's comment: the text after `#` on the line of its key, if no other key is on that line."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _comments(value, lines, f"{prefix}{key}.")
        elif not section.fa.flow_style():
            line = lines[section.lc.key(key)[0]]
            yield f"{prefix}{key}", line.partition(" #")[2].strip()


def _meaning(name: str, comment: str, path: Path | str) -> str:
    only_allowed = re.fullmatch(r"\w+( \| \w+)+|\d+ to \d+", comment)
    meaning = UNCOMMENTED.get(name, "") if only_allowed else comment or UNCOMMENTED.get(name, "")
    if not meaning:
        raise InputError(f"{path}: {name} has no comment: say beside it what it means")
    return meaning.replace(" | ", " / ")


def _allowed(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What `pipeline.params` accepts for each parameter, in words, by dotted name."""
    definitions = schema.get("$defs", {})

    def walk(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, part in section["properties"].items():
            if "$ref" in part:
                yield from walk(definitions[part["$ref"].rpartition("/")[2]], f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", _described(part)

    return walk(schema, "")


def _described(part: Mapping[str, Any]) -> str:
    if "anyOf" in part:
        return " or ".join(_described(choice) for choice in part["anyOf"])
    if "enum" in part or "const" in part:
        return ", ".join(f"`{choice}`" for choice in part.get("enum", [part.get("const")]))
    match part["type"]:
        case "null":
            return "`null`"
        case "array":
            return f"list of {_described(part['items'])}"
        case "string":
            return f"text like `{part['pattern']}`" if "pattern" in part else "text"
        case kind:
            return f"{kind} {_bounds(part)}".strip()


def _bounds(part: Mapping[str, Any]) -> str:
    if "minimum" in part and "maximum" in part:
        return f"{part['minimum']:g} to {part['maximum']:.10g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {part[bound]:g}" for bound, sign in signs.items() if bound in part)


@click.command(name="parameters")
@click.option("--params", "path", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True)
@click.option("--write", "page", type=click.Path(path_type=Path, exists=True), help="Replace the table in this file.")
def main(path: Path, page: Path | None) -> None:
    """Print the table of every parameter, or put it into a Markdown file between its markers."""
    try:
        table = table_of(path.read_text(encoding="utf-8"), path)
        if page is None:
            click.echo(table)
            return
        before, _, after = between_markers(page.read_text(encoding="utf-8"), page, MARKER)
    except (InputError, OSError) as error:
        raise click.ClickException(str(error)) from error
    write_text(page, f"{before}\n{table}\n{after}")


if __name__ == "__main__":
    main()
