"""The two commands of the README on the default data, in a clone of the last commit, with the packages in place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.commands import run, seconds
from benchmarks.measuring import Row, at_most

PARAMETER = "sampler.cutdown=0.1"


def rows() -> Iterator[Row]:
    """The whole pipeline, then one experiment after it; seconds on the wall."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        run("git", "clone", "--quiet", str(Path.cwd()), str(clone))
        first = seconds("dvc", "repro", at=clone)
        ablation = seconds("dvc", "exp", "run", "-n", "tried", "-S", PARAMETER, at=clone)
    yield at_most("dvc repro, the default, everything new", "seconds", first, 90)
    yield at_most(f"dvc exp run -S {PARAMETER}", "seconds", ablation, 30, "stages train, evaluate and audit")
