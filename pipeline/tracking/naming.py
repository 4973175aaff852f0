"""Names in MLflow: the tags by which a run is found, and a run's descriptive name."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.dependencies import code_of_metrics
from pipeline.sections import NO_RESULT

TRAIN_KEY = "pipeline.train_key"
EVALUATE_KEY = "pipeline.evaluate_key"
MODEL = "pipeline.model"  # the version of the logged model
PARENT = "mlflow.parentRunId"
NAME = "mlflow.runName"  # MLflow renames a run that gets this tag
EVALUATED = "test/rsum"  # only evaluated runs have this metric; an evaluation's metrics are written last, all at once
WRITTEN, WRITING = "pipeline.written", "no"  # `no` while a stage writes, and after a kill; else new after each stage
COPIED = "pipeline.copied"  # the server that gets a copy; after a complete copy, also the value of WRITTEN at that time
REPLACES = "pipeline.replaces"  # deleted runs that this one replaces
TOKEN = "pipeline.token"  # noqa: S105  (of a copy: the run's id in the store)
SEED_NAME = "seed name"  # a parameter: in MLflow's parallel coordinates a seed that is a number would be an amount
FILES = "pipeline.files"  # of a copy: the digests of its artifacts by path

IDENTITY = ("sampler.strategy", "loss.name")
"""Always in the name, by value alone."""
UNNAMED = ("seed", "data.root", *NO_RESULT)
"""The seed has a place of its own, and the data are named by `data.name`."""
LONGEST = 250  # MLflow's limit


def run_name(params: Mapping[str, Any], committed: Mapping[str, Any] | None, experiment: str = "") -> str:
    """Differences from `committed`, seed, strategy and loss, DVC's name: `cutdown 0.1 · seed 3 · fne triplet · cut-1`.

    Args:
        params: of the run, by dotted name.
        committed: the parameters in the repository; if unknown (None), memory and cut-down are in the name.
        experiment: DVC's name of the experiment, if any.
    """
    if committed is None:
        changed = [name for name in ("memory.size", "sampler.cutdown") if name in params]
    else:
        changed = [name for name in params if name not in committed or params[name] != committed[name]]
    labels = _labels(params)
    named = [name for name in changed if name not in IDENTITY and not name.startswith(UNNAMED)]
    parts = [*(f"{labels[name]} {_text(params[name])}" for name in named), f"seed {params['seed']}"]
    parts += [" ".join(str(params[name]) for name in IDENTITY if name in params), experiment]
    return " · ".join(part for part in parts if part)[:LONGEST]


def committed_params(path: str = "params.yaml") -> dict[str, Any] | None:
    """The parameters of the commit that an experiment starts from, by dotted name; None if git has none."""
    from pipeline.errors import InputError
    from pipeline.params import flat
    from pipeline.yaml_text import parse_yaml

    commit = os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"
    answer = subprocess.run(["git", "show", f"{commit}:./{path}"], capture_output=True, text=True, check=False)
    if answer.returncode:
        return None
    try:
        content = parse_yaml(answer.stdout, path)
    except InputError:
        return None
    return flat(content) if isinstance(content, dict) else None


def origin_tags() -> dict[str, str]:
    """The origin of a run: DVC experiment and baseline, git commit, and a digest of the code behind its metrics."""
    tags = {
        "code.digest": code_of_metrics(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "mlflow.source.name": "dvc " + ("exp run" if "DVC_EXP_NAME" in os.environ else "repro"),
    }
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if answer.returncode == 0:
        tags["git.commit"] = tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return {name: value for name, value in tags.items() if value}


def _labels(params: Mapping[str, Any]) -> dict[str, str]:
    """The last part of a dotted name if it is unique, else the whole name."""
    ends = Counter(name.rpartition(".")[2] for name in params)
    return {name: end if ends[end := name.rpartition(".")[2]] == 1 else name.replace(".", " ") for name in params}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)
