"""Nothing runs that came from outside: what ruff has no rule for is searched for here, and hostile files are read."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.models import pretrained
from pipeline.params import load_params
from tests.data.published import PARAMS
from tests.models.test_pretrained import write_towers

ROOT = PARAMS.parent
SOURCES = sorted(
    path for folder in ("pipeline", "stages", "commands", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
MAY_UNPICKLE = ROOT / "pipeline/models/foreign/convert.py"

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.startfile"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle"),
}
# An argument, and the one value that it may have; where a call is named it must be there.
ARGUMENTS = {"allow_pickle": False, "trust_remote_code": False, "weights_only": True, "shell": False, "typ": "safe"}
NEEDED = {
    "torch.load": "weights_only",
    **dict.fromkeys(("np.load", "numpy.load", "np.save", "numpy.save"), "allow_pickle"),
    **{f"Auto{kind}.from_pretrained": "trust_remote_code" for kind in ("Config", "Model", "Tokenizer", "Processor")},
}


def violations(source: str, *, may_unpickle: bool = False) -> Iterator[str]:
    """What in a module could run a file's content, a line each."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
        for name in MODULES.intersection(names):
            if not (may_unpickle and name == "pickle"):
                yield f"line {node.lineno}: imports {name}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if called in CALLS:
                yield f"line {node.lineno}: calls {called}"
            if (needed := NEEDED.get(called)) is not None and needed not in given:
                yield f"line {node.lineno}: {called} without {needed}"
            for name, allowed in ARGUMENTS.items():
                value = given.get(name)
                if value is not None and not (isinstance(value, ast.Constant) and value.value == allowed):
                    yield f"line {node.lineno}: {name}={ast.unparse(value)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_run_what_a_file_holds(path: Path) -> None:
    assert list(violations(path.read_text(), may_unpickle=path == MAY_UNPICKLE)) == []


@pytest.mark.parametrize(
    "source",
    [
        *(
            "import pickle",
            "from pickle import loads",
            "import torch, dill",
            "import yaml",
            "eval(text)",
            "os.system(x)",
        ),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)"),
        *("np.load(path)", "numpy.load(path, allow_pickle=True)", "run(x, shell=True)", "run(x, shell=flag)"),
        *(
            "AutoTokenizer.from_pretrained(x)",
            "f(x, trust_remote_code=True)",
            "YAML(typ='unsafe')",
            "torch.hub.load(x)",
        ),
    ],
)
def test_the_search_finds(source: str) -> None:
    assert len(list(violations(source))) == 1


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


def test_a_yaml_tag_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    created = tmp_path / "created"
    path.write_text(PARAMS.read_text().replace("root: null", f"root: !!python/object/apply:os.mkdir ['{created}']"))
    with pytest.raises(InputError, match=r"params\.yaml"):
        load_params(path)
    assert not created.exists()
