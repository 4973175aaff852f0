"""The command that finds a parameter, also by a misspelt name."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides

from pipeline.params import load_params
from tests.stages.running import ROOT, invoke_with, write_tiny_params

pytestmark = pytest.mark.usefixtures("written")


@pytest.fixture
def written(clone: Path) -> None:
    write_tiny_params(clone)


def names(word: str) -> list[str]:
    lines = invoke_with("params", word).output.splitlines()
    return [line.partition(" = ")[0] for line in lines if " = " in line and not line.startswith(" ")]


@pytest.mark.parametrize(
    "wrong", ["cut_down", "sampler.cut_down", "samper.cutdown", "+sampler.cut_down=0.1", "CUT-DOWN"]
)
def test_a_misspelt_name_gets_the_nearest_valid_one_first(wrong: str) -> None:
    assert names(wrong)[0] == "sampler.cutdown"
    assert len(names(wrong)) == 3


def test_a_word_finds_the_names_that_have_it_else_the_meanings() -> None:
    assert names("lr") == ["base.lr", "pairs.bank_lr", "train.lr"]
    assert names("hugging face") == ["data.repository"]


def test_it_says_value_bounds_and_meaning() -> None:
    said = invoke_with("params", "sampler.cutdown").output
    assert said.startswith(f"sampler.cutdown = {load_params().sampler.cutdown}\n    number 0 to 2: ")


def test_elsewhere_it_says_where_to_run(clone: Path) -> None:
    (clone / "params.yaml").unlink()
    result = invoke_with("params", "seed")
    assert (result.exit_code, result.output) == (1, "error: params.yaml: not found; run from the repository's root\n")


def test_dvc_refuses_a_misspelt_name_in_the_words_that_the_documentation_explains() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        apply_overrides(Path("params.yaml"), ["sampler.cut_down=0.1"])
    assert "Key 'cut_down' is not in struct" in "".join(traceback.format_exception(refused.value))
    assert "is not in struct` |" in (ROOT / "docs/experiments.md").read_text()
    assert "python -m commands.params" in (ROOT / "docs/experiments.md").read_text()


def test_it_loads_nothing_heavy() -> None:
    code = "import sys; from commands.params import main; main(['seed'], standalone_mode=False)"
    code += "; sys.exit(len({'torch', 'mlflow', 'transformers', 'pandas'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
