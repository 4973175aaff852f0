"""Whether a killed `dvc exp run` has left git without its branch, and how to go back."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from pipeline.files import is_running

EXPERIMENT = Path(".dvc/tmp/exps/run/workspace/workspace.json")
"""DVC's record of the process that runs an experiment in this workspace.

DVC writes it before it detaches HEAD and removes it after it has put HEAD back.
"""
MOVED = re.compile(r"^checkout: moving from (\S+) to ", re.MULTILINE)


def way_back(folder: Path = Path()) -> str | None:
    """What to type where a killed `dvc exp run` has left git on a detached HEAD; None in every other case.

    While `dvc exp run` works HEAD is detached too: the record names the process, and a running one needs no advice. The
    advice moves no branch and changes no file, as DVC's own way back.
    """
    try:
        process = int(json.loads((folder / EXPERIMENT).read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if is_running(process) or _git(folder, "symbolic-ref", "--quiet", "HEAD"):
        return None
    left = MOVED.findall(_git(folder, "reflog", "--format=%gs", "HEAD"))
    branch = next((name for name in left if _git(folder, "show-ref", "--verify", f"refs/heads/{name}")), None)
    if branch is None:
        return None
    return (
        "a `dvc exp run` was killed in this workspace and has left git on a detached HEAD. "
        f"To go back to the branch, with all files as they are: git symbolic-ref HEAD refs/heads/{branch}"
    )


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
