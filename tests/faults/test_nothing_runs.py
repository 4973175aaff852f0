"""Nothing runs that came from outside: what ruff has no rule for is searched for here, and hostile files are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.models import pretrained
from tests.data.published import PARAMS
from tests.models.test_pretrained import write_towers

ROOT = PARAMS.parent
SOURCES = sorted(
    path for folder in ("pipeline", "stages", "commands", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
MAY_UNPICKLE = ROOT / "pipeline/models/foreign/convert.py"
# Where an argument is left out, numpy, torch and transformers refuse what could run.
RUNS = re.compile(
    r"^\s*(?:import|from) (?:_?pickle|dill|cloudpickle|joblib|marshal|shelve|yaml|code)\b"
    r"|(?<![\w.])(?:eval|exec|compile|__import__)\(|os\.(?:system|popen|execv)\(|(?:hub|jit)\.load|read_pickle"
    r"|allow_pickle=(?!False)|trust_remote_code=(?!False)|weights_only=(?!True)|shell=(?!False)|typ=(?!.safe)",
    re.MULTILINE,
)


def test_no_module_can_run_what_a_file_holds() -> None:
    found = {path: RUNS.findall(path.read_text()) for path in SOURCES}
    assert {path: text for path, text in found.items() if text} == {MAY_UNPICKLE: ["import pickle"]}


def test_no_rule_of_ruff_on_pickles_shells_and_evaluation_is_switched_off() -> None:
    off = [f"{path}: {line}" for path in SOURCES for line in path.read_text().splitlines() if "noqa: S" in line]
    # a token of a vocabulary and a tag's name are no passwords
    assert [line for line in off if not {"S105", "S106"} & set(line.split("noqa: ")[1].split())] == []


def test_no_command_of_dvc_is_built_from_parameters() -> None:
    lines = (ROOT / "dvc.yaml").read_text().splitlines()
    assert [line for line in lines if "cmd:" in line and "${" in line] == []


def test_code_in_a_towers_folder_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def asked(*_: object) -> str:
        raise AssertionError("a question at the terminal")

    monkeypatch.setattr("builtins.input", asked)
    image, text = write_towers(tmp_path)
    (tmp_path / text / "own.py").write_text("import os\nos.mkdir('created')\n\nclass Own:\n    pass\n")
    classes = {"AutoTokenizer": ["own.Own", None], "AutoConfig": "own.Own", "AutoModel": "own.Own"}
    for name in ("tokenizer_config.json", "config.json"):
        path = tmp_path / text / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes, "tokenizer_class": "Own"}))
    try:
        pretrained.fetch(image, text, image_revision=None, text_revision=None)
    except InputError as error:
        assert "model.text = 'bert'" in str(error)
    assert not (tmp_path / "created").exists()
