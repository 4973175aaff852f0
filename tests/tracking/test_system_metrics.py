"""The machine's load in the run, where asked for."""

from __future__ import annotations

import time

import pytest
from mlflow import MlflowClient

from pipeline.tracking import Tracker, store_uri


@pytest.mark.usefixtures("clone")
def test_the_load_is_logged_until_the_run_ends() -> None:
    tracker = Tracker("tried")
    with tracker:
        tracker.begin("key", "run", {"seed": 1}, {})
        tracker.watch_machine(interval=0.1)
        time.sleep(1.5)
        tracker.finish()
    client = MlflowClient(tracking_uri=store_uri())
    logged = len(client.get_metric_history(tracker.run_id, "system/cpu_utilization_percentage"))
    assert logged > 0
    time.sleep(0.5)
    assert len(client.get_metric_history(tracker.run_id, "system/cpu_utilization_percentage")) == logged
