"""What dvc.yaml promises: whatever changes a result runs its stage again, and no two settings share a result."""

from __future__ import annotations

import inspect
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.base.links import link_local_towers
from pipeline.data.scenes.scenes import generate
from pipeline.features.tokens import padded
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import dotted, load_params
from pipeline.report.page import render_page
from pipeline.retrieval.recall import recalls
from pipeline.runtime.processes import uniform
from pipeline.sampling.strategies import fne_weights
from pipeline.tracking import Tracker
from tests.imports import import_closure, is_within

ROOT = Path(__file__).parent.parent
STAGES: Any = YAML().load((ROOT / "dvc.yaml").read_text())["stages"]
VALUES: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
NEVER_HASHED = {"size", "nfiles"}  # what DVC leaves out of a run cache's key, wherever it stands
RERUN_NOTHING = ("tracking.", "launch.")
CODE = ("pipeline/", "stages/")
LEFT_OUT = {
    "stages/command.py": "starts and ends every stage; computes nothing",
    "stages/alone.py": "locks the workspace",
    "stages/launch.py": "starts processes and chooses GPUs; the result is the same on any number",
    "stages/recorded.py": "compares parameters and code, and refuses or lets pass",
    "pipeline/dependencies.py": "reads this list",
    "pipeline/__init__.py": "`load`, for other programs; no stage calls it",
    "pipeline/errors.py": "messages",
    "pipeline/problems.py": "messages",
    "pipeline/progress.py": "progress bars; passes on what it is given",
    "pipeline/paths.py": "names of outputs, which dvc.yaml has too",
    "pipeline/params.py": "checks values and changes none; those that a stage computes with are in its `params`",
    "pipeline/sections.py": "same as pipeline/params.py",
    "pipeline/yaml_text.py": "reads params.yaml, whose values are in `params`",
    "pipeline/tracking": "copies results to MLflow; no stage computes with what MLflow holds",
    "pipeline/serving.py": "the model as MLflow loads it; in no output of a stage",
    "pipeline/report/recall_table.py": "a description for MLflow; in no output of a stage",
    "pipeline/report/tables.py": "what `evaluate` prints; in no output of a stage",
}
"""Modules and folders that stages import without naming them in `deps`: they can change no result, and why."""


def value_of(name: str) -> Any:
    value: Any = VALUES
    for part in name.split("."):
        value = value[part]
    return value


def keys_within(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys_within(item)


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_tells_every_parameter_apart(stage: str) -> None:
    hidden = {name for name in STAGES[stage].get("params", ()) if NEVER_HASHED & set(keys_within(value_of(name)))}
    assert hidden == set()


def code_of(stage: str) -> list[str]:
    return [name for name in STAGES[stage]["deps"] if name.startswith(CODE)]


def place_of(stage: str) -> str:
    return f"dvc.yaml, line {STAGES[stage].lc.key('deps')[0] + 1}, deps of stage {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_that_can_change_its_result(stage: str) -> None:
    reached = import_closure(f"stages/{stage}.py", LEFT_OUT)
    missing = sorted(path for path in reached if not is_within(path, code_of(stage)))
    assert missing == [], (
        f"{place_of(stage)}: add {', '.join(missing)}. The stage imports them, so a change there must run it again. "
        "What can change no result goes to LEFT_OUT in tests/test_dvc_yaml.py instead, with the reason"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(stage: str) -> None:
    reached = import_closure(f"stages/{stage}.py", LEFT_OUT)
    unused = [name for name in code_of(stage) if not any(is_within(path, [name]) for path in reached)]
    assert unused == [], f"{place_of(stage)}: remove {', '.join(unused)}, or changes there run the stage for nothing"


def test_what_is_left_out_is_there_and_a_stage_imports_it() -> None:
    reached = set().union(*(import_closure(f"stages/{stage}.py") for stage in STAGES))
    unused = [name for name in LEFT_OUT if not any(is_within(path, [name]) for path in reached)]
    assert unused == [], f"LEFT_OUT in tests/test_dvc_yaml.py: remove {', '.join(unused)}"


def test_every_parameter_is_named_by_a_stage() -> None:
    named = {name for stage in STAGES.values() for name in stage.get("params", ())}
    leaves = [name for name in dotted(load_params(ROOT / "params.yaml")) if not name.startswith(RERUN_NOTHING)]
    unnamed = [leaf for leaf in leaves if not any(leaf == name or leaf.startswith(f"{name}.") for name in named)]
    assert unnamed == []


def test_dvc_does_leave_out_a_key_called_size() -> None:
    from dvc.stage.cache import _get_cache_hash

    def key(params: dict[str, Any]) -> str:
        return str(_get_cache_hash({"cmd": "x", "params": {"params.yaml": params}}, key=True))

    assert key({"memory": {"size": 0}}) == key({"memory": {"size": 1024}})  # if not, dvc.yaml may name sections again
    assert key({"memory.size": 0}) != key({"memory.size": 1024})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and dvc.yaml, and a dvc.lock that says that every stage has run with them."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("stages", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    for stage in STAGES.values():
        made = [*stage["deps"], *stage["outs"], *(name for metric in stage.get("metrics", ()) for name in metric)]
        for path in (folder / name for name in made if not name.startswith(CODE)):
            file = path if path.suffix else path / "made"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(path))
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    with chdir(folder), Repo.init() as repo:
        repo.commit(force=True)
    assert changed_stages(folder) == set()
    return folder


def changed_stages(repository: Path) -> set[str]:
    """Whose dependencies `dvc status` says have changed."""
    with chdir(repository), Repo() as repo:
        return set(repo.status())


@pytest.mark.parametrize(
    ("code", "run_again", "kept"),
    [
        (padded, {"base", "features", "train", "evaluate"}, {"download", "split", "audit"}),
        (pair_losses, {"base", "bank", "train"}, {"download", "split", "features", "audit"}),
        (uniform, {"train"}, {"download", "split"}),
        (generate, {"download", "split", "base"}, {"features", "evidence", "bank", "train", "evaluate", "audit"}),
        (recalls, {"train", "evaluate", "audit"}, {"download", "split", "base", "features"}),
        (fne_weights, {"train"}, {"download", "split", "base", "features"}),
        (render_page, {"audit"}, STAGES.keys() - {"audit"}),
        (Tracker, set(), STAGES.keys()),
    ],
)
def test_a_change_of_code_runs_the_stages_whose_result_it_can_change(
    code: Callable[..., Any], run_again: set[str], kept: set[str], repository: Path
) -> None:
    file = repository / Path(inspect.getfile(code)).relative_to(ROOT)
    source = file.read_text()
    file.write_text(source + "# DVC compares the bytes: this is as good as another constant\n")
    try:
        changed = changed_stages(repository)
    finally:
        file.write_text(source)
    assert run_again <= changed
    assert not changed & kept


def test_byte_code_runs_nothing(repository: Path) -> None:
    (repository / "pipeline/models/__pycache__").mkdir()
    (repository / "pipeline/models/__pycache__/towers.pyc").write_bytes(b"1")
    assert changed_stages(repository) == set()


@pytest.mark.parametrize(
    ("stage", "links", "key"), [("base", ".towers", "model"), ("evidence", ".encoders", "evidence")]
)
def test_a_local_tower_that_has_changed_runs_its_stage_again(
    stage: str, links: str, key: str, repository: Path, tmp_path: Path
) -> None:
    weights, lock = tmp_path / "model.safetensors", (repository / "dvc.lock").read_text()
    weights.write_text("1")
    try:
        link_local_towers(repository / links, {f"{key}.image": str(tmp_path)})
        assert changed_stages(repository) == {stage}
        with chdir(repository), Repo() as repo:
            repo.commit(stage, force=True)
        assert changed_stages(repository) == set()
        weights.write_text("2")
        assert changed_stages(repository) == {stage}
    finally:
        link_local_towers(repository / links, {})
        (repository / "dvc.lock").write_text(lock)
