"""What git says of the repository that the stages run in, read from its files: no process is started for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

LEFT_BY_DVC = "refs/exps/exec/EXEC_HEAD"
RESTORED = "\tdvc: Restore HEAD to "
MOVED = re.compile(r"\tcheckout: moving from (\S+) to ")
LATELY = 6  # lines of HEAD's log: an experiment writes three


def way_back(folder: Path = Path()) -> str | None:
    """What to type where a killed `dvc exp run` has left git on a detached HEAD; None where all is well.

    While `dvc exp run` works it detaches HEAD itself: nothing is said to the stages that it starts.
    """
    git, shared = _git_folders(folder / ".git")
    if "DVC_EXP_NAME" in os.environ or _text(git / "HEAD").startswith("ref:"):
        return None
    log = _text(git / "logs/HEAD").splitlines()
    if not _is_there(shared, LEFT_BY_DVC) and not any(RESTORED in line for line in log[-LATELY:]):
        return None
    names = [found[1] for line in log if (found := MOVED.search(line))]
    branch = next((name for name in reversed(names) if _is_there(shared, f"refs/heads/{name}")), None)
    if branch is None:
        return None
    return (
        "git is on a detached HEAD, where a killed `dvc exp run` has left it. "
        f"The way back, which keeps the files as they are: git checkout {branch}"
    )


def _git_folders(git: Path) -> tuple[Path, Path]:
    """Where HEAD and its log lie, and where the branches: in a worktree two places, and `.git` a file that says where.

    A reference that is not of one worktree alone, as DVC's are not, lies with the branches.
    """
    if git.is_file():
        git = git.parent / _text(git).removeprefix("gitdir:").strip()
    return git, git / (_text(git / "commondir").strip() or ".")


def _is_there(shared: Path, reference: str) -> bool:
    """Whether there is one of that name, in a file of its own or packed with others."""
    packed = _text(shared / "packed-refs").splitlines()
    return (shared / reference).is_file() or any(line.endswith(f" {reference}") for line in packed)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
