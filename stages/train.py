"""Stage `train`: one training run, resumed after a kill."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from stages.command import stage
from stages.launch import started_together
from stages.recorded import check_recorded

if TYPE_CHECKING:
    from pipeline.params import Params
    from pipeline.tracking import Tracker
    from pipeline.training.checkpoint import Checkpoint


@click.command(name="train")
@stage
def main() -> None:
    """Train as params.yaml says, into models/trained (best validation) and train (history)."""
    from filelock import FileLock

    from pipeline.dependencies import checkpoint_folder
    from pipeline.files import digest_of, sha256, users_file
    from pipeline.params import dotted, load_params
    from pipeline.paths import BANK_PAIRS, BASE, EVIDENCE_RECORD, MANIFEST, SPLIT
    from pipeline.tracking import Tracker, committed_params, origin_tags, run_name

    params = load_params()  # before the heavy imports: a misspelt key is reported at once
    from pipeline.evaluation.takeover import take_over
    from pipeline.training.checkpoint import Checkpoint

    made = (MANIFEST, BASE / "base.json", EVIDENCE_RECORD, BANK_PAIRS, *sorted(SPLIT.iterdir()))
    inputs = {str(path): sha256(path) for path in made}
    if params.model.weights is not None:
        inputs["model.weights"] = sha256(users_file(params.model.weights, "model.weights"))
    if started_together("train", params.launch.processes):
        return
    sections = ("seed", "model", "memory", "sampler", "targets", "loss", "pairs", "train")
    key = digest_of(params.model_dump(include=set(sections)), inputs)
    folder = checkpoint_folder("train", key)
    main = os.environ.get("RANK", "0") == "0"
    # if the same experiment is queued twice, the second one waits
    with FileLock(folder.with_suffix(".lock")) if main else nullcontext():
        checkpoint = Checkpoint(folder)
        tracker = Tracker(params.tracking.experiment, silent=not main)
        tags = {**origin_tags(), "data.name": params.data.name, "data.digest": digest_of(inputs)}
        named = run_name(dotted(params), committed_params(), os.environ.get("DVC_EXP_NAME", ""))
        # evaluate adds the others, which may still change: MLflow keeps the first value of a parameter
        own = {name: value for name, value in dotted(params).items() if not name.startswith(("evaluate.", "audit."))}
        with tracker:
            tracker.begin(key, named, own, tags, restart=not checkpoint.kept())
            if params.tracking.system_metrics:
                tracker.watch_machine()
            _name_data(tracker, params)
            if params.model.weights is None:
                _train(params, key, tracker, checkpoint)
            elif main:  # the other processes have nothing to share
                click.echo(take_over(params, key))
            check_recorded()
            # In this order a kill in between loses nothing: the same command finds the checkpoint, the run, or both.
            tracker.finish()
            if main:
                checkpoint.remove()


def _train(params: Params, key: str, tracker: Tracker, checkpoint: Checkpoint) -> None:
    from pipeline.data.splits.truth_file import read_truth
    from pipeline.evidence.table import prior_of
    from pipeline.files import atomic_folder
    from pipeline.paths import BASE, EVIDENCE, FEATURES, LAST, SPLIT, TRAINED
    from pipeline.runtime.processes import process_index
    from pipeline.training.health import warm_up_is_all, without_effect
    from pipeline.training.record import write_training
    from pipeline.training.setup import open_training

    sent = 0

    def send(history: list[dict[str, Any]]) -> None:
        nonlocal sent
        tracker.log_rows(history[sent:])
        sent = len(history)

    training, save = open_training(params, FEATURES, SPLIT, BASE, read_truth(SPLIT, "train"), checkpoint, send)
    for warning in without_effect(params) if process_index() == 0 else ():
        click.echo(warning, err=True)
    if training.resume():
        click.echo(f"going on at epoch {training.at.epoch + 1}, step {training.at.step}")
    at = training.run()
    if process_index() > 0:
        return
    with atomic_folder(TRAINED) as trained:
        last = trained / LAST.relative_to(TRAINED)
        save(last)
        last_statistics = training.statistics.as_numbers()
        training.restore_best()
        save(trained)
    weighted = training.impact or training.learned
    pairs = None if weighted is None else weighted.table(training.train_inputs.caption_image)
    final = {"epoch": max(0, at.epoch - 1), "step": at.step, "statistics": last_statistics}
    settings = params.sampler.model_dump() | {
        "loss": params.loss.name,
        "prior": prior_of(params.sampler.prior, EVIDENCE),
    }
    write_training(at.history, {"key": key, "best": at.best, "last": final, "sampler": settings}, pairs)
    send(at.history)
    where = f"in epoch {at.best['epoch'] + 1} of {at.epoch}" if at.epoch else "nothing trained"
    click.echo(f"best validation: rsum {at.best_rsum:.1f}, {where}")
    if at.best["epoch"] < params.train.warmup_epochs < at.epoch and not warm_up_is_all(params):
        click.echo(
            "warning: that is an epoch of the warm-up (train.warmup_epochs): sampler.strategy, loss.name and "
            "targets.name had no effect on the weights that are kept; the last epoch's are evaluated beside them",
            err=True,
        )


def _name_data(tracker: Tracker, params: Params) -> None:
    from pipeline.files import read_record, sha256
    from pipeline.paths import MANIFEST, SOURCE, SPLIT

    rows = read_record(MANIFEST, "features")["rows"]
    source: dict[str, Any] = read_record(SOURCE) if SOURCE.exists() else {}
    origin = {"stage": "download"} | {key: str(source[key]) for key in ("title", "licence") if key in source}
    for part, context in (("train", "training"), ("val", "validation")):
        tracker.data_set(f"{params.data.name} {part}", context, sha256(SPLIT / f"{part}.json"), origin, rows[part])


if __name__ == "__main__":
    main()
