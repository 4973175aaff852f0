"""The training loop: epochs of steps, validations between them, checkpoints whenever some time has passed."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.features.encoding import encode_split, model_images
from pipeline.features.inputs import Batch, Inputs, epoch_plan, training_batches
from pipeline.models.memory import Memory
from pipeline.models.momentum import momentum_copy, update_momentum
from pipeline.models.towers import MatchingModel
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from pipeline.runtime.processes import gather, local_span, process_count, uniform
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.training.accumulation import ALONE, Window, window_of
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.health import check_finite, collapse_warning, means_of
from pipeline.training.impact import NegativeImpact
from pipeline.training.objective import MatchingObjective, Pairs
from pipeline.training.optimiser import make_optimiser
from pipeline.training.schedule import scheduled_rate

if TYPE_CHECKING:
    from accelerate import Accelerator

RECORDS_PER_EPOCH = 10
NOTICED = (
    "train/loss",
    "sampler/cut_down_share",
    "sampler/suspected_share",
    "sampler/false_negative_share",
    "similarity/collapse",
    "pairs/weight_mean",
    "pairs/bank_loss",
)
VALIDATION_BATCH = 256  # not evaluate.batch_size: a training must not depend on how it is judged later


@dataclass
class Progress:
    """Where a training stands: what a checkpoint holds beside the tensors."""

    epoch: int = 0
    batch: int = 0  # the next one of this epoch
    step: int = 0
    best_rsum: float = -1.0
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """One run, from its base towers to its last epoch.

    Args:
        params: all parameters.
        model: the model to train, on the accelerator's device afterwards.
        width: D, of the memory.
        train: the training split.
        val: the validation split.
        normalisation: mean and deviation of pixels.
        accelerator: device, precision and processes.
        checkpoint: where the state is kept.
        truth_NM: (N, M) bool, if every match of the training split is known.
        impact: weighs pairs, over the same `model`.
        on_record: told the whole history so far whenever a checkpoint holds it: what it was told is never lost.
    """

    def __init__(
        self,
        params: Params,
        model: MatchingModel,
        width: int,
        train: Inputs,
        val: Inputs,
        normalisation: tuple[list[float], list[float]],
        accelerator: Accelerator,
        checkpoint: Checkpoint,
        truth_NM: Tensor | None = None,
        impact: NegativeImpact | None = None,
        on_record: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    ) -> None:
        """Prepare everything; nothing is trained yet."""
        self.params, self.train_inputs, self.val_inputs = params, train, val
        self.mean, self.std = normalisation
        self.accelerator, self.checkpoint, self.on_record = accelerator, checkpoint, on_record
        self.device = accelerator.device
        self.model = model.to(self.device)
        remembers = params.memory.size > 0
        self.memory = Memory(params.memory.size, width, params.memory.prefill).to(self.device) if remembers else None
        self.momentum_model = momentum_copy(self.model) if remembers else None
        self.statistics = SimilarityStatistics(params.sampler.statistics)
        self.objective = MatchingObjective(
            params.sampler,
            params.loss,
            params.train.warmup,
            self.statistics,
            self.memory,
            None if truth_NM is None else truth_NM.to(self.device),
        )
        self.impact = impact
        self.prepared, self.optimiser = accelerator.prepare(self.model, make_optimiser(self.model, params.train))
        self.at = Progress()
        self._sums: list[Tensor] = []
        self._warned = False

    def run(self) -> Progress:
        """Train to the last epoch from where this training stands."""
        while self.at.epoch < self.params.train.epochs:
            self._run_epoch()
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
            self._save()
        return self.at

    def step(self, batch: Batch, *, warming_up: bool, window: Window = ALONE) -> Tensor:
        """One step on this process's part of a batch; what `NOTICED` names, 1-dimensional.

        The weights change with the last batch of a window and the momentum towers with the first; memory, statistics
        and draws go on with every batch.
        """
        if self.momentum_model is not None and window.first:
            update_momentum(self.momentum_model, self.model, self.params.model.momentum)
        with nullcontext() if window.last else self.accelerator.no_sync(self.prepared):
            told, momentum = self._gradients(batch, warming_up, 1 / window.size)
        if window.last:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.params.train.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
        if momentum is not None and not (warming_up and self.params.memory.prefill == "random"):
            assert self.memory is not None  # with `random`, FNE's code leaves the queue alone in warm-up
            self.memory.enqueue(momentum.image, momentum.text, momentum.image_id, momentum.caption_id)
        return told

    def _gradients(self, batch: Batch, warming_up: bool, share: float) -> tuple[Tensor, Pairs | None]:
        """Forward and backward; `share` of the gradient is added to what is there."""
        images = model_images(batch.images, self.mean, self.std)
        with self.accelerator.autocast():
            image, text = self.prepared(images, batch.texts)
        own = Pairs(image, text, batch.image_id, batch.caption_id)
        in_batch = warming_up or self.memory is None
        everyone = Pairs(
            *(gather(part, batch.global_size, differentiable=in_batch and i < 2) for i, part in enumerate(own))
        )
        momentum = self._momentum_pairs(images, batch)
        draws_2b = uniform(self.params.seed, self.at.step, batch.global_size)[:, batch.first : batch.first + len(image)]
        loss_b, noticed = self.objective(
            own,
            everyone,
            momentum,
            batch.first,
            draws_2b.to(self.device, non_blocking=True),
            self.model.temperature(self.params.loss.temperature),
            warming_up=warming_up,
        )
        # processes average their gradients: a smaller part must not count as much as a larger one
        loss = loss_b.sum() * process_count() / batch.global_size
        told = torch.stack([loss.detach(), *noticed])
        if self.impact is not None and batch.entries is not None:
            entry_images = model_images(batch.entries.images, self.mean, self.std)
            lr = self.optimiser.param_groups[0]["lr"]
            impact = self.impact(loss_b, batch, entry_images, lr)
            loss = impact.loss
            told = torch.cat([told, torch.stack([impact.weight.mean(), impact.bank_loss.mean()])])
        if self.model.logit_scale is not None:  # several processes wait for a gradient of every parameter
            loss = loss + 0 * self.model.logit_scale
        self.accelerator.backward(loss * share)
        return told, momentum

    @torch.no_grad()
    def _momentum_pairs(self, images: Tensor, batch: Batch) -> Pairs | None:
        if self.momentum_model is None:
            return None
        with self.accelerator.autocast():
            image, text = self.momentum_model(images, batch.texts)
        return Pairs(*(gather(part, batch.global_size) for part in (image, text, batch.image_id, batch.caption_id)))

    def _run_epoch(self) -> None:
        settings, at = self.params.train, self.at
        warming_up = at.epoch < settings.warmup_epochs
        if at.batch == 0:
            self.statistics.reset()
        plan = epoch_plan(len(self.train_inputs.caption_image), settings.batch_size, self.params.seed, at.epoch)
        plan = [batch for batch in plan if len(batch) >= process_count()]
        spans = [local_span(len(batch)) for batch in plan]
        validated = {
            math.ceil(len(plan) * part / settings.validations_per_epoch)
            for part in range(1, settings.validations_per_epoch + 1)
        }
        recorded = validated | set(range(0, len(plan), max(1, len(plan) // RECORDS_PER_EPOCH)))
        batches = training_batches(
            self.train_inputs,
            plan,
            spans,
            seeds=(self.params.seed, at.epoch),
            start=at.batch,
            workers=settings.workers,
            entries=None if self.impact is None or warming_up else self.impact.bank.entries,
        )
        self.prepared.train()
        for batch in progress(batches, label=f"epoch {at.epoch + 1}/{settings.epochs}", total=len(plan) - at.batch):
            rate = scheduled_rate(settings, at.epoch, at.batch, len(plan), len(self.train_inputs.caption_image))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            window = window_of(at.batch, len(plan), settings.accumulate)
            self._sums.append(self.step(batch.to(self.device), warming_up=warming_up, window=window))
            at.batch, at.step = at.batch + 1, at.step + 1
            if at.batch in recorded:
                self._record(validate=at.batch in validated)
                if window.last and self.checkpoint.due():  # half a window's gradients are in no checkpoint
                    self._save()

    def _record(self, *, validate: bool) -> None:
        """Write down the mean since the last record; the only place where the host waits for the device."""
        means = means_of(self._sums)
        self._sums = []
        row = {  # a warm-up tells nothing of pairs
            name: value
            for name, value in zip(NOTICED, means, strict=False)
            if not math.isnan(value) or name == NOTICED[0]
        }
        check_finite(row["train/loss"], self.model, self.at.epoch, self.at.step)
        warning = collapse_warning(row.get("similarity/collapse", 0.0), self.at.epoch)
        if warning and not self._warned and self.accelerator.is_main_process:
            self._warned = True
            print(warning, file=sys.stderr)
        row["train/lr"] = self.optimiser.param_groups[0]["lr"]
        for name, population in (("positive", self.statistics.positive), ("negative", self.statistics.negative)):
            row[f"similarity/{name}_mean"] = float(population.mean)
            row[f"similarity/{name}_std"] = float(population.variance) ** 0.5
            row[f"similarity/{name}_count"] = float(population.count)
        row["sampler/threshold"] = row["similarity/positive_mean"] - self.params.sampler.cutdown
        if validate:
            row |= self._validate() | ({} if self.impact is None else self.impact.summary())
        place = {"epoch": self.at.epoch, "step": self.at.step, "time": int(time.time() * 1000)}
        self.at.history.append(place | row)

    def _validate(self) -> dict[str, float]:
        image_ND, text_MD = encode_split(
            self.model, self.val_inputs, VALIDATION_BATCH, self.device, self.mean, self.std
        )
        figures = recalls(*retrieval_ranks(image_ND, text_MD, self.val_inputs.caption_image))
        if figures["rsum"] > self.at.best_rsum:
            self.at.best_rsum = figures["rsum"]
            self.at.best = {"epoch": self.at.epoch, "step": self.at.step, "statistics": self.statistics.as_numbers()}
            if self.accelerator.is_main_process:
                self.checkpoint.save({"model": _cpu(self.model.state_dict())}, "best")
        return {f"val/{name.replace('_', '/')}": value for name, value in figures.items()}

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.checkpoint.save(self.state_dict())
        self.on_record(self.at.history)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        parts: dict[str, Any] = {
            "model": _cpu(self.model.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "statistics": self.statistics.state_dict(),
            "generator": torch.get_rng_state(),
            "sums": self._sums,
            # one text: a reader of checkpoints that were made to harm counts the steps of their pickle
            "progress": json.dumps(vars(self.at)),
        }
        if self.memory is not None and self.momentum_model is not None:
            parts |= {"memory": self.memory.state_dict(), "momentum": self.momentum_model.state_dict()}
        if self.impact is not None:
            parts["impact"] = self.impact.state_dict()
        if self.device.type == "cuda":
            parts["device_generator"] = torch.cuda.get_rng_state(self.device)
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler.state_dict()
        return parts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.statistics.load_state_dict(
            {
                name: {key: value.to(self.device) for key, value in part.items()}
                for name, part in state["statistics"].items()
            }
        )
        torch.set_rng_state(state["generator"])
        self._sums = [row.to(self.device) for row in state["sums"]]
        self.at = Progress(**json.loads(state["progress"]))
        if self.memory is not None and self.momentum_model is not None:
            self.memory.load_state_dict(state["memory"])
            self.momentum_model.load_state_dict(state["momentum"])
        if self.impact is not None:
            self.impact.load_state_dict(state["impact"])
        if "device_generator" in state:
            torch.cuda.set_rng_state(state["device_generator"], self.device)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def resume(self) -> bool:
        """Go on from the last checkpoint; False where there is none."""
        state = self.checkpoint.load()
        if state is None:
            return False
        self.load_state_dict(state)
        self.on_record(self.at.history)
        return True

    def restore_best(self) -> None:
        """Take the weights of the best validation."""
        best = self.checkpoint.load("best")
        if best is None:
            raise InputError(f"{self.checkpoint.folder}: holds no best weights; delete the folder and train again")
        self.model.load_state_dict(best["model"])


def _cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}
