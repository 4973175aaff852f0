"""What dvc.yaml promises: each parameter re-runs a stage, and no two settings share an entry of DVC's run cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.params import dotted, load_params

ROOT = Path(__file__).parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
VALUES: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
NEVER_HASHED = {"size", "nfiles"}  # what DVC leaves out of a run cache's key, wherever it stands
RERUN_NOTHING = ("tracking.", "launch.")


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


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_names_is_there(stage: str) -> None:
    code = [name for name in STAGES[stage]["deps"] if name.startswith(("pipeline/", "stages/"))]
    assert [name for name in code if not (ROOT / name).exists()] == []


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
