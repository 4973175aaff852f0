"""What an experiment changed: its run compared with the one before it, as a line for the terminal."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.naming import EVALUATED, PARENT, SEED_NAME
from pipeline.tracking.runs import search

MOST = 8  # parameters that one line names
SAME_RESULT = "launch.processes"  # changes nothing but rounding and dropout
TAGS = {"data.digest": "the data", "code.digest": "the code"}


def previous_run(client: MlflowClient, run: Run) -> Run | None:
    """The newest finished and evaluated run of the same experiment that started before `run`.

    Another evaluation of an older training (a child run) is none.
    """
    earlier = f"attributes.status = 'FINISHED' and attributes.start_time < {run.info.start_time}"
    found = search(client, [run.info.experiment_id], f"{earlier} and metrics.`{EVALUATED}` >= 0")
    return next((one for one in found if PARENT not in one.data.tags), None)


def difference(run: Run, previous: Run) -> str:
    """`compared with NAME: sampler.cutdown 0.2 → 0.1; test rsum 221.3 → 224.2 (+2.9)`, rsum in percent."""
    now, before = run.data.params, previous.data.params
    changed = [
        f"{name} {before.get(name, 'missing')} → {now.get(name, 'missing')}"
        for name in sorted((now.keys() | before.keys()) - {SEED_NAME, SAME_RESULT})
        if now.get(name) != before.get(name)
    ]
    more = len(changed) - MOST
    changed = changed[:MOST] + ([f"{more} more parameters"] if more > 0 else [])
    if not changed:  # different parameters explain other data
        changed = [what for tag, what in TAGS.items() if run.data.tags.get(tag) != previous.data.tags.get(tag)]
    one, other = (one.data.metrics[EVALUATED] for one in (previous, run))
    what = ", ".join(changed) or "nothing changed"
    return f"compared with {previous.info.run_name}: {what}; test rsum {one:.1f} → {other:.1f} ({other - one:+.1f})"
