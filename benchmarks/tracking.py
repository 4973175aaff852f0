"""What tracking adds to a training step.

    python -m benchmarks.tracking

Trains the workspace's experiment for two epochs as stage `train` does, with the rows sent to a fresh MLflow store, and
prints the share of the training time that went into sending them. Needs the outputs of `dvc repro features`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.measuring import Row, at_most

EPOCHS = 2


def measure() -> dict[str, float]:
    """Seconds a step, the part of it that is tracking, and what opening and closing the run cost once."""
    from pipeline.data.splits.truth_file import read_truth
    from pipeline.params import dotted, load_params
    from pipeline.paths import BANK, BASE, EVIDENCE, FEATURES, SPLIT
    from pipeline.tracking import Tracker
    from pipeline.training.checkpoint import Checkpoint
    from pipeline.training.setup import open_training

    params = load_params()
    params = params.model_copy(update={"train": params.train.model_copy(update={"epochs": EPOCHS})})
    spent, sent = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        started = time.perf_counter()
        tracker = Tracker("benchmark")
        tracker.begin("benchmark", "benchmark", dotted(params), {})
        opening = time.perf_counter() - started

        def send(history: list[dict[str, Any]]) -> None:
            nonlocal spent, sent
            begun = time.perf_counter()
            tracker.log_rows(history[sent:])
            sent = len(history)
            spent += time.perf_counter() - begun

        truth = read_truth(SPLIT, "train")
        made = (BASE, truth, Checkpoint(Path(folder)), send, BANK, EVIDENCE)
        training, _ = open_training(params, FEATURES, SPLIT, *made)
        started = time.perf_counter()
        at = training.run()
        total = time.perf_counter() - started
        started = time.perf_counter()
        tracker.finish()
        closing = time.perf_counter() - started
    return {
        "steps": at.step,
        "milliseconds_a_step": 1000 * total / at.step,
        "tracking_share": spent / total,
        "opening_seconds": opening,
        "closing_seconds": closing,
    }


def rows() -> Iterator[Row]:
    """For the table of docs/performance.md."""
    told = measure()
    remark = f"{told['milliseconds_a_step']:.1f} ms a step; {told['opening_seconds']:.1f} s to open the run, once"
    yield at_most("tracking", "% of a training step", 100 * told["tracking_share"], 2, remark)


@click.command()
def main() -> None:
    """Print the measurement as JSON."""
    click.echo(json.dumps(measure(), indent=2))


if __name__ == "__main__":
    main()
