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
    git = folder / ".git"
    if "DVC_EXP_NAME" in os.environ or _text(git / "HEAD").startswith("ref:"):
        return None
    log = _text(git / "logs/HEAD").splitlines()
    if not (git / LEFT_BY_DVC).exists() and not any(RESTORED in line for line in log[-LATELY:]):
        return None
    names = [found[1] for line in log if (found := MOVED.search(line))]
    branch = next((name for name in reversed(names) if (git / "refs/heads" / name).exists()), None)
    if branch is None:
        return None
    return (
        "git is on a detached HEAD, where a killed `dvc exp run` has left it. "
        f"The way back, which keeps the files as they are: git checkout {branch}"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
