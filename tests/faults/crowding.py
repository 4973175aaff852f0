"""Queued experiments and one in the workspace, on one store and one cache: nothing lost, nothing doubled."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from mlflow.entities import Run

from pipeline.params import dotted, parse_params
from pipeline.training.record import PLACE
from pipeline.yaml_text import parse_yaml
from tests.end_to_end.test_dvc import Clone
from tests.faults.killing_dvc import Found, differences, files_of, missing_from_cache, processes_in, ref_of
from tests.faults.killing_queue import start_workers, statuses

QUEUED = 4
LONGEST = 900.0
PATIENT = 60.0
ARTIFACTS = {"intervals.json", "metrics.json", "ranks.parquet", "reliability.csv", "report", "similarity.png"}


def crowd(clone: Clone, round_number: int, number_queued: int = QUEUED) -> None:
    """Run all at once, with parameters that no other round has: each has to be there, whole and once."""
    values = names(round_number, number_queued)
    *queued, own = values
    _workers_gone(clone)
    before = {run.info.run_id for run in clone.runs()} if clone.client.get_experiment_by_name("fne") else set()
    for name in queued:
        clone.dvc("exp", "run", "--queue", "--name", name, "-S", f"sampler.cutdown={values[name]}")
    start_workers(clone, number_queued)
    most, done, said = _run_beside(clone, "--name", own, "-S", f"sampler.cutdown={values[own]}")
    assert done == 0, said
    assert most > 1, "never did two of them train at once"
    give_up = time.monotonic() + LONGEST
    while (told := statuses(clone)) != dict.fromkeys(queued, "Success"):
        lost = not _workers(clone) and statuses(clone) != dict.fromkeys(queued, "Success")
        assert not lost and "Failed" not in told.values() and time.monotonic() < give_up, told
        time.sleep(1)
    clone.say("git", "checkout", "--quiet", "--force", "main")
    clone.dvc("queue", "remove", "--success")
    _check(clone, values, before)


def names(round_number: int, number_queued: int) -> dict[str, float]:
    """The experiments of a round, with their cut-downs; the last runs in the workspace."""
    of_round = 0.4 + 0.01 * round_number
    return {f"crowd-{round_number}-{i}": round(of_round + 0.001 * i, 3) for i in range(number_queued + 1)}


def _workers(clone: Clone) -> list[Found]:
    return [process for process in processes_in(clone.folder) if "queue-worker" in process.command]


def _workers_gone(clone: Clone) -> None:
    """Wait until the workers of the round before have ended, as docs/experiments.md advises.

    One that ends for lack of work may take what is queued in that moment, and not run it: DVC's defect. Another: of
    several that end at once, one may lose the message that ends it, and stays.
    """
    for stop in (False, True):
        if stop and _workers(clone):
            clone.dvc("queue", "stop")
        give_up = time.monotonic() + PATIENT
        while _workers(clone) and time.monotonic() < give_up:
            time.sleep(0.2)


def _run_beside(clone: Clone, *arguments: str) -> tuple[int, int, str]:
    """`dvc exp run` in the workspace: the most trainings that were at work at once, its exit status, what it said."""
    log, most, give_up = clone.folder.with_name(f"{clone.folder.name}.log"), 0, time.monotonic() + LONGEST
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "exp", "run", *arguments],
            cwd=clone.folder,
            env=clone.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    while process.poll() is None:
        if time.monotonic() > give_up:
            process.kill()
            return most, process.wait(), f"killed after {LONGEST:.0f} s: {log.read_text()}"
        training = [found for found in processes_in(clone.folder) if "python -m stages.train" in found.command]
        most = max(most, len({found.pid for found in training if " -c " not in found.command}))
        time.sleep(0.2)
    return most, process.returncode, log.read_text()


def _check(clone: Clone, values: dict[str, float], before: set[str]) -> None:
    """One finished run with its own name, commit and model for each experiment, and no store beside the shared one."""
    head = clone.say("git", "rev-parse", "HEAD").strip()
    new = {run.data.params["sampler.cutdown"]: run for run in clone.runs() if run.info.run_id not in before}
    assert len(clone.runs()) - len(before) == len(values)
    for name, value in values.items():
        run = new[str(value)]
        assert (run.info.status, run.data.tags["dvc.experiment"]) == ("FINISHED", name)
        assert (str(run.info.run_name).partition(" · ")[0], run.data.tags["dvc.baseline"]) == (name, head)
        _check_run(clone, ref_of(clone, name), run)
    ids = sorted(run.info.run_id for run in new.values())
    assert sorted(str(model.run_id) for model in clone.client.search_model_versions() if model.run_id in ids) == ids
    assert not list((clone.folder / ".dvc/tmp/exps").glob("**/mlflow.db"))


def _check_run(clone: Clone, ref: str, run: Run) -> None:
    """MLflow's run and DVC's cache are as the experiment's commit says."""
    files = files_of(clone, ref)
    assert missing_from_cache(clone, files["outputs"]) == []
    written = parse_params(parse_yaml(clone.say("git", "show", f"{ref}:params.yaml"), Path("params.yaml")))
    params = {name: "null" if value is None else str(value) for name, value in dotted(written).items()}
    assert differences(dict(run.data.params), params) == []
    assert {item.path for item in clone.client.list_artifacts(run.info.run_id)} == ARTIFACTS
    history = list(csv.DictReader(io.StringIO(_cached(clone, files["outputs"]["train"], "history.csv").decode())))
    wanted = {
        name: sorted((int(row["step"]), float(row[name])) for row in history if row[name] and _finite(row[name]))
        for name in history[0].keys() - set(PLACE)
    }
    wanted |= {f"{part}/rsum": [(-1, files["metrics"][part]["rsum"])] for part in ("test", "last")}
    for name, rows in wanted.items():
        told = clone.client.get_metric_history(run.info.run_id, name)
        sent = sorted((metric.step if name in history[0] else -1, metric.value) for metric in told)
        assert len(sent) == len(rows), name
        assert np.allclose(sent, rows, rtol=1e-9), name  # MLflow is told ten digits


def _cached(clone: Clone, folder: str, name: str) -> bytes:
    """A file of an output folder, from DVC's cache, by the folder's digest."""
    cache = clone.folder / ".dvc/cache/files/md5"
    members = json.loads((cache / folder[:2] / folder[2:]).read_text())
    (digest,) = [member["md5"] for member in members if member["relpath"] == name]
    return (cache / digest[:2] / digest[2:]).read_bytes()


def _finite(text: str) -> bool:
    return math.isfinite(float(text))
