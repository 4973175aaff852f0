"""Queued experiments and one in the workspace, on one store and one cache: nothing lost, nothing doubled."""

from __future__ import annotations

import time

import numpy as np

from tests.end_to_end.test_dvc import Clone
from tests.faults.killing import tracked
from tests.faults.killing_dvc import Found, files_of, processes_in, ref_of
from tests.faults.killing_queue import start_workers, statuses

QUEUED = 4
LONGEST = 900.0
PATIENT = 60.0


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
    process, most, give_up = clone.start("exp", "run", *arguments), 0, time.monotonic() + LONGEST
    while process.poll() is None:
        if time.monotonic() > give_up:
            process.kill()
            return most, process.wait(), f"killed after {LONGEST:.0f} s: {clone.log.read_text()}"
        training = [found for found in processes_in(clone.folder) if "python -m stages.train" in found.command]
        most = max(most, len({found.pid for found in training if " -c " not in found.command}))
        time.sleep(0.2)
    return most, process.returncode, clone.log.read_text()


def _check(clone: Clone, values: dict[str, float], before: set[str]) -> None:
    """One finished run with its own name, commit and model for each experiment, and no store beside the shared one.

    Each has as many metrics, parameters and models as every other one; that these are right is compared with an
    experiment that ran alone, in `tests/end_to_end/test_kills_of_dvc.py`.
    """
    head = clone.say("git", "rev-parse", "HEAD").strip()
    new = {run.data.params["sampler.cutdown"]: run for run in clone.runs() if run.info.run_id not in before}
    assert len(clone.runs()) - len(before) == len(values)
    counts = []
    for name, value in values.items():
        run, rsum = new[str(value)], files_of(clone, ref_of(clone, name))["metrics"]["test"]["rsum"]
        assert (run.info.status, run.data.tags["dvc.experiment"]) == ("FINISHED", name)
        assert (str(run.info.run_name).rpartition(" · ")[2], run.data.tags["dvc.baseline"]) == (name, head)
        assert np.isclose(run.data.metrics["test/rsum"], rsum, rtol=1e-9)  # MLflow gets ten digits
        counts.append({part: len(rows) for part, rows in tracked(clone.folder, [run.info.run_id]).items()})
    assert counts == [counts[0]] * len(values)
    assert counts[0]["models"] == counts[0]["logged models"] == 1
    assert not list((clone.folder / ".dvc/tmp/exps").glob("**/mlflow.db"))
