"""One trial of a study, in this process: a training and its evaluation, as a row of results.

It does what the stages `train` and `evaluate` do, without DVC, MLflow and a new interpreter.
"""

from __future__ import annotations

import datetime
import json
import platform
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.data.splits.truth_file import read_truth, read_truths
from pipeline.evaluation.judgment import Encoded, judge
from pipeline.evidence.table import match_chance, prior_of, trust_quality
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.models.build import load_trained
from pipeline.params import Params, flat
from pipeline.paths import BANK, BASE, EVIDENCE, FEATURES, SPLIT
from pipeline.retrieval.recall import recall_names
from pipeline.runtime.processes import own_device
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.record import Moment, SamplerRecord, sampling_by_epoch, write_history
from pipeline.training.setup import open_training

PARTS = ("best", "last")
"""The weights of the best validation, and those of the last epoch."""
SOURCES = ("", "_expert")
METRICS = (
    *recall_names("/"),
    "rsum",
    *(f"truth{source}/{side}/mAP@R" for source in SOURCES for side in ("i2t", "t2i")),
    *(
        f"{score}{source}/{name}"
        for score in ("posterior", "similarity")
        for source in SOURCES
        for name in ("auc", "ap")
    ),
    *(f"evidence{source}/{name}" for source in SOURCES for name in ("auc", "ap", "ece")),
    "judged/rsum",
    "sampler/false_negative_share",
    "sampler/suspected_share",
    "sampler/cut_down_share",
)
"""Of each part; those that a trial does not have stay empty."""
OF_PAIRS = ("trust/auc", "pairs/weight_auc", "pairs/ratio_auc", "bank/clean_auc")
"""Of the last epoch."""
IDENTITY = ("study", "case", "method", "phase", "seed", "overrides")
COLUMNS = (
    *IDENTITY,
    *("val_rsum", "best_epoch"),
    *(f"{part}/{name}" for part in PARTS for name in METRICS),
    *OF_PAIRS,
    *("seconds", "processor_seconds", "machine", "date", "code"),
)


@dataclass(frozen=True)
class Trial:
    """A row of a study's results that is not there yet."""

    study: str
    case: str
    method: str
    phase: str
    seed: int
    overrides: Mapping[str, Any]
    """What differs from params.yaml with the study's recipe, apart from the seed."""

    @property
    def identity(self) -> tuple[str, ...]:
        """The values of the columns `IDENTITY`; a row that has them all is this trial's."""
        overrides = json.dumps(dict(self.overrides), sort_keys=True)
        return self.study, self.case, self.method, self.phase, str(self.seed), overrides


class InMemory(Checkpoint):
    """Keeps the best weights alone: a trial that was interrupted starts again."""

    def __init__(self) -> None:
        """Hold nothing."""
        super().__init__(Path())
        self.best: dict[str, Any] | None = None

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, state: dict[str, Any], name: str = "state") -> None:
        """Copy the best weights."""
        if name == "best":
            self.best = {"model": {key: value.clone() for key, value in state["model"].items()}}

    def load(self, name: str = "state") -> dict[str, Any] | None:
        """The best weights."""
        return self.best if name == "best" else None


def run_trial(trial: Trial, params: Params, folder: Path, limit: int) -> dict[str, Any]:
    """Train over the preparation in `folder`, evaluate in the final phase, and return the row.

    Raises:
        TimeoutError: after `limit` seconds.
    """
    started, used = time.monotonic(), time.process_time()
    with _limited(limit), tempfile.TemporaryDirectory() as scratch:
        row = _trained(params, folder, Path(scratch), evaluated=trial.phase == "final")
    row |= {"seconds": round(time.monotonic() - started, 1), "processor_seconds": round(time.process_time() - used, 1)}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return dict(zip(IDENTITY, trial.identity, strict=True)) | row | {"machine": machine(), "date": today}


def _trained(params: Params, folder: Path, scratch: Path, *, evaluated: bool) -> dict[str, Any]:
    split, features, base, bank, evidence = (folder / part for part in (SPLIT, FEATURES, BASE, BANK, EVIDENCE))
    truth, checkpoint = read_truth(split, "train"), InMemory()
    training, save = open_training(
        params, features, split, base, truth, checkpoint, lambda history: None, bank, evidence
    )
    at = training.run()
    row = {"val_rsum": round(at.best_rsum, 4), "best_epoch": at.best["epoch"] + 1}
    if not evaluated:
        return row
    last: dict[str, Any] = {
        "epoch": max(0, at.epoch - 1),
        "step": at.step,
        "statistics": training.statistics.as_numbers(),
    }
    save(scratch / "last")
    training.restore_best()
    save(scratch / "best")
    inputs = open_inputs(params.model, features, split, "test")
    truths = {} if params.evaluate.truth == "none" else read_truths(split, "test")
    settings = params.sampler.model_dump() | {"prior": prior_of(params.sampler.prior, evidence)}
    sampler = SamplerRecord.model_validate(settings)
    chance = match_chance(evidence, split, "test") if truths else None  # the same for both parts
    write_history(scratch / "history.csv", at.history)
    by_epoch: list[dict[str, Any]] = json.loads(
        sampling_by_epoch(scratch / "history.csv").add_prefix("sampler/").to_json(orient="records")
    )
    sampling = {int(epoch.pop("sampler/epoch")): epoch for epoch in by_epoch}
    for part, moment in (("best", at.best), ("last", last)):
        model = load_trained(scratch / part, inputs.feature_widths).to(own_device())
        image_ND, text_MD = encode_split(model, inputs, params.evaluate.batch_size, "test")
        encoded = Encoded(image_ND.cpu(), text_MD.cpu(), inputs.caption_image)
        about = chance if part == "best" else None
        report = judge(encoded, params.evaluate.folds, truths, Moment.model_validate(moment), sampler, about).report
        found = {name.replace(".", "/"): value for name, value in flat(report).items()}
        found |= sampling.get(moment["epoch"], {})
        row |= {f"{part}/{name}": float(f"{found[name]:.6g}") for name in METRICS if found.get(name) is not None}
    row |= {f"trust/{name}": value for name, value in trust_quality(evidence, split).items()}
    for record in at.history:
        row |= {name: float(f"{record[name]:.6g}") for name in OF_PAIRS if name in record}
    return row


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError(f"not finished after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def machine() -> str:
    """The GPU that trials use, or the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
