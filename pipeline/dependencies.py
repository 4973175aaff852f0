"""The code that a stage's result depends on: the stage's `deps` in dvc.yaml are the only list of it.

DVC compares this code, the stage itself compares it at its start and end, and a killed run resumes only with the same
code.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pipeline.files import digest_of, main_root, sha256
from pipeline.yaml_text import parse_yaml

STAGES = "dvc.yaml"
CODE = ("stages/", "pipeline/")
CHECKPOINTS = ".checkpoints"
ROOT = Path(__file__).parents[1]
"""The repository whose code runs, which may be DVC's copy of it."""


def stage_entry(stage: str, root: Path) -> dict[str, Any]:
    """The entry of a stage in dvc.yaml.

    Raises:
        OSError, InputError, LookupError, TypeError: when it cannot be read or lacks the stage.
    """
    return dict(_stages((root / STAGES).read_text(encoding="utf-8"))[stage])


def code_digests(stage: str, root: Path) -> dict[str, str]:
    """SHA-256 of each code file in a stage's `deps`, by path; "" for a missing file. Raises as above."""
    named = [root / name for name in stage_entry(stage, root).get("deps", []) if name.startswith(CODE)]
    files = {file for path in named for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir()}
    code = sorted(file for file in files if "__pycache__" not in file.parts)
    return {str(file.relative_to(root)): sha256(file) if file.exists() else "" for file in code}


def code_of_metrics(root: Path = ROOT) -> str:
    """One digest of all code that a run's metrics depend on: every stage's but `audit`'s, which shows them."""
    stages = _stages((root / STAGES).read_text(encoding="utf-8"))
    return digest_of([code_digests(stage, root) for stage in stages if stage != "audit"])


def checkpoint_folder(stage: str, key: str) -> Path:
    """Create `<main repository>/.checkpoints/<stage>-<digest>`; the digest depends on the code and on `key`."""
    folder = main_root() / CHECKPOINTS / f"{stage}-{digest_of(_code_at_start(stage), key)[:20]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.lru_cache(maxsize=8)
def _stages(text: str) -> dict[str, Any]:
    return dict(parse_yaml(text, STAGES)["stages"])  # a tenth of a second each time


@functools.cache
def _code_at_start(stage: str) -> dict[str, str]:
    return code_digests(stage, ROOT)
