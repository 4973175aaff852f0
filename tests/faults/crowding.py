"""Four queued experiments and one in the workspace, on one store and one cache: nothing lost, nothing doubled."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.end_to_end.test_dvc import Clone
from tests.faults.killing_queue import start_workers, statuses

QUEUED = 4
LONGEST = 600.0


def crowd(clone: Clone, round_number: int) -> list[str]:
    """Run five at once, with parameters that no other round has, and name all that is not as it should be."""
    values = {f"crowd-{round_number}-{i}": round(0.1 + 0.01 * round_number + 0.001 * i, 3) for i in range(QUEUED + 1)}
    *queued, own = values
    before = {run.info.run_id for run in clone.runs()} if clone.client.get_experiment_by_name("fne") else set()
    for name in queued:
        clone.dvc("exp", "run", "--queue", "--name", name, "-S", f"sampler.cutdown={values[name]}")
    start_workers(clone)
    command = [sys.executable, "-m", "dvc", "exp", "run", "--name", own, "-S", f"sampler.cutdown={values[own]}"]
    done = subprocess.run(
        command, cwd=clone.folder, env=clone.environment, capture_output=True, text=True, check=False, timeout=LONGEST
    )
    problems = [] if done.returncode == 0 else [f"{own}: {done.stdout[-200:]}{done.stderr[-200:]}"]
    give_up = time.monotonic() + LONGEST
    while (told := statuses(clone)) != dict.fromkeys(queued, "Success"):
        if "Failed" in told.values() or time.monotonic() > give_up:
            return [*problems, f"the queue: {told}"]
        time.sleep(1)
    clone.say("git", "checkout", "--quiet", "--force", "main")
    clone.dvc("queue", "remove", "--success")
    problems += _problems_of(clone, values, before)
    return problems


def _problems_of(clone: Clone, values: dict[str, float], before: set[str]) -> list[str]:
    problems = []
    refs = {Path(ref).name: ref for ref in clone.say("git", "for-each-ref", "--format=%(refname)").split()}
    new = [run for run in clone.runs() if run.info.run_id not in before]
    if len(new) != len(values):
        problems.append(f"{len(new)} runs in MLflow for {len(values)} experiments")
    for name, value in values.items():
        runs = [run for run in new if run.data.params["sampler.cutdown"] == str(value)]
        if len(runs) != 1 or runs[0].info.status != "FINISHED" or runs[0].data.tags["dvc.experiment"] != name:
            problems.append(f"{name}: {[(run.info.run_name, run.info.status) for run in runs]} in MLflow")
        elif name not in refs:
            problems.append(f"{name}: DVC has no such experiment")
        else:
            problems += _differences(clone, refs[name], runs[0].info.run_id)
    return problems


def _differences(clone: Clone, ref: str, run_id: str) -> list[str]:
    metrics = json.loads(clone.say("git", "show", f"{ref}:metrics.json"))
    expected = {"test/rsum": [metrics["test"]["rsum"]], "last/rsum": [metrics["last"]["rsum"]]}
    histories = {name: [m.value for m in clone.client.get_metric_history(run_id, name)] for name in expected}
    problems = [f"{ref}: {name} {histories[name]} in MLflow" for name in expected if histories[name] != expected[name]]
    validations = len(clone.client.get_metric_history(run_id, "val/rsum"))
    return problems if validations == 2 else [*problems, f"{ref}: {validations} validations in MLflow"]
