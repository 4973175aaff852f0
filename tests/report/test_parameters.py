"""The table of parameters in docs/parameters.md is the one that params.yaml and its types make."""

from __future__ import annotations

import re
import shlex
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params import dotted, load_params
from pipeline.report import parameters
from pipeline.report.parameters import MARKER, between_markers, table_of

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
PAGE = ROOT / "docs/parameters.md"
TEXT = PARAMS.read_text(encoding="utf-8")


def rows(table: str) -> dict[str, list[str]]:
    """Cells after the name, by name."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {name.strip("`"): rest for name, *rest in cells}


def committed() -> str | None:
    """params.yaml as of the last commit: `dvc exp run -S` changes the one in the workspace."""
    answer = subprocess.run(["git", "-C", ROOT, "show", "HEAD:params.yaml"], capture_output=True, check=False)
    return answer.stdout.decode() if answer.returncode == 0 else None


def test_the_page_holds_exactly_the_table() -> None:
    _, table, _ = between_markers(PAGE.read_text(encoding="utf-8"), PAGE, MARKER)
    before = committed()
    expected = table == table_of(TEXT) or (before is not None and table == table_of(before))
    assert expected, "after a change of params.yaml: python -m pipeline.report.parameters --write docs/parameters.md"


def test_every_parameter_has_a_row_with_its_default() -> None:
    table = rows(table_of(TEXT))
    defaults = dotted(load_params(PARAMS))
    assert list(table) == list(defaults)
    assert {name: cells[0] for name, cells in table.items()} == {
        name: "`null`" if value is None else f"`{value}`" for name, value in defaults.items()
    }


def test_allowed_values_are_those_of_the_types() -> None:
    allowed = {name: cells[1] for name, cells in rows(table_of(TEXT)).items()}
    assert allowed["data.scenes.size"] == "integer 16 to 512"
    assert allowed["data.split.val"] == "number > 0, < 0.5"
    assert allowed["model.momentum"] == "number ≥ 0, < 1"
    assert allowed["model.width"] == "integer ≥ 2 or `null`"
    assert allowed["memory.prefill"] == "`empty`, `random`"
    assert allowed["train.milestones"] == "list of integer ≥ 1"


def test_a_comment_in_the_file_is_the_meaning() -> None:
    line = next(line for line in TEXT.splitlines() if line.lstrip().startswith("cutdown:"))
    changed = TEXT.replace(line, line.partition("#")[0] + "# sharpness, # or so | nothing")
    assert rows(table_of(changed))["sampler.cutdown"][2] == "sharpness, # or so / nothing"


def test_the_table_stays_the_same_when_dvc_rewrites_the_file() -> None:
    rewritten = StringIO()
    content = YAML().load(TEXT)
    content["train"]["milestones"] = list(content["train"]["milestones"])  # a block of lines, as DVC leaves lists
    YAML().dump(content, rewritten)
    assert rewritten.getvalue() != TEXT
    assert table_of(rewritten.getvalue()) == table_of(TEXT)


def test_a_parameter_without_a_meaning_is_refused() -> None:
    silent = "\n".join(line.partition(" #")[0] if "layers:" in line else line for line in TEXT.splitlines())
    with pytest.raises(InputError, match=r"base\.layers has no comment"):
        table_of(silent, "params.yaml")


def test_writing_replaces_the_table_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Before\n\n<!-- parameters -->\nold\n<!-- /parameters -->\n\nafter\n")
    command = ["--params", str(PARAMS), "--write", str(page)]
    assert CliRunner().invoke(parameters.main, command).exit_code == 0
    written = page.read_text()
    assert written == f"# Before\n\n<!-- parameters -->\n{table_of(TEXT)}\n<!-- /parameters -->\n\nafter\n"
    assert CliRunner().invoke(parameters.main, command).exit_code == 0
    assert page.read_text() == written


def test_a_page_without_markers_is_refused_and_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- parameters -->\nno end")
    answer = CliRunner().invoke(parameters.main, ["--params", str(PARAMS), "--write", str(page)])
    assert answer.exit_code == 1
    assert "found 0 lines <!-- /parameters -->, expected one" in answer.output
    assert page.read_text() == "<!-- parameters -->\nno end"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"-S '?([\w.]+)=", (ROOT / page).read_text(encoding="utf-8")))
    assert named <= set(dotted(load_params(PARAMS)))


@pytest.mark.parametrize("lists", [["FNE"], ["FNE", "QUIRKS"]])
def test_the_published_lists_of_settings_are_accepted(lists: list[str], tmp_path: Path) -> None:
    page = (ROOT / "docs/published.md").read_text(encoding="utf-8")
    settings = []
    for name in lists:
        found = re.search(rf"^{name}=\((.*?)\)$", page, re.DOTALL | re.MULTILINE)
        assert found is not None
        settings += [word for word in shlex.split(found[1]) if word != "-S"]
    copy = tmp_path / "params.yaml"
    copy.write_text(TEXT, encoding="utf-8")
    apply_overrides(copy, settings)
    accepted = dotted(load_params(copy))
    expected = dict(setting.split("=") for setting in settings)  # of a name given twice the later one holds
    assert {name: YAML(typ="safe").load(value) for name, value in expected.items()} == {
        name: accepted[name] for name in expected
    }
