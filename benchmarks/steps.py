"""Where a training step's time goes.

    python -m benchmarks.steps                        # into column "now" of docs/performance.md
    python -m benchmarks.steps --column NAME --figures FILE

Trains the workspace's experiment for two epochs, the second one with its sampler, and adds up what each part of a step
takes. Needs the outputs of `dvc repro bank`. It knows the training by its seams alone, so that a copy of this file
measures an older commit too.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FIGURES = Path("docs/results/performance.json")
EPOCHS = 2
REST = "waiting for data, records, checkpoints"


@click.command()
@click.option("--column", default="now", show_default=True, help="the table's column to write")
@click.option("--figures", type=click.Path(path_type=Path), default=FIGURES, show_default=True, help="a JSON file")
def main(column: str, figures: Path) -> None:
    """Measure, and keep milliseconds a step for each part."""
    from pipeline.files import write_json

    results = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    results.setdefault("steps", {})[column] = measure()
    write_json(figures, results)
    click.echo(json.dumps(results["steps"][column], indent=1))


def measure() -> dict[str, float]:
    """Milliseconds a step of each part, validation left out."""
    from pipeline.data.splits.truth_file import read_truth
    from pipeline.params import load_params
    from pipeline.paths import BANK, BASE, EVIDENCE, FEATURES, SPLIT
    from pipeline.training import loop
    from pipeline.training.checkpoint import Checkpoint
    from pipeline.training.setup import open_training
    from stages.command import keep_memory

    keep_memory()
    params = load_params()
    train = params.train.model_copy(update={"epochs": EPOCHS, "warmup_epochs": 1})
    params = params.model_copy(update={"train": train})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder))
        truth = read_truth(SPLIT, "train")
        made = (BASE, truth, checkpoint, lambda history: None, BANK, EVIDENCE)
        training, _ = open_training(params, FEATURES, SPLIT, *made)
        spent: dict[str, float] = defaultdict(float)
        timed(spent, training, "prepared", "towers, forward")
        timed(spent, training, "_momentum_pairs", "momentum towers, forward")
        timed(spent, training, "objective", "sampling and loss")
        timed(spent, training.accelerator, "backward", "backward")
        timed(spent, training.accelerator, "clip_grad_norm_", "clipping and the optimiser")
        timed(spent, training.optimiser, "step", "clipping and the optimiser")
        timed(spent, loop, "update_momentum", "momentum update")
        timed(spent, training.memory, "enqueue", "memory")
        timed(spent, training.model, "normalise", "pixels to numbers")
        timed(spent, training, "_validate", "validation")
        begun = time.perf_counter()
        steps = training.run().step
        total = time.perf_counter() - begun
    total -= spent.pop("validation")
    spent[REST] = total - sum(spent.values())
    return {"a step": 1000 * total / steps} | {part: 1000 * seconds / steps for part, seconds in spent.items()}


class _Timed:
    """Stands for a function or a model, and adds up the seconds of its calls."""

    def __init__(self, inner: Any, add: Callable[[float], None]) -> None:
        self._inner, self._add = inner, add

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        result = self._inner(*arguments, **named)
        self._add(time.perf_counter() - begun)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def timed(spent: dict[str, float], owner: Any, name: str, part: str) -> None:
    """From now on, add up under `part` what the owner's attribute takes."""

    def add(seconds: float) -> None:
        spent[part] += seconds

    setattr(owner, name, _Timed(getattr(owner, name), add))


if __name__ == "__main__":
    main()
