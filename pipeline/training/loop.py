"""The training loop: epochs of steps, with validations and checkpoints.

One step, of b pairs on this process in a global batch of B, with a memory of Q (`Training.step`):

    update_momentum(momentum_model, model)                      # θ_m ← m θ_m + (1 - m) θ
    image_bD, text_bD = model(images, texts)                    # unit vectors
    image_BD, text_BD = gather(image_bD), gather(text_bD)       # from all processes
    with no_grad: momentum_BD = gather(momentum_model(images, texts))
    statistics.update(image_BD @ text_BD.T)                     # μ±, σ± of this epoch
    for anchor_bD, candidate_CD in image → text, text → image:  # candidates: momentum_BD and the memory, C = B + Q
        similarity_bC = anchor_bD @ candidate_CD.T
        weights_bC = sample(similarity_bC, statistics)          # FNE's weights, or another strategy's
        loss_b += triplet_loss(one candidate, drawn by weights_bC)  or  infonce_loss(similarity_bC, weights_bC) / 2
    loss = loss_b.mean()                                        # or NPC's weighted mean, plus its bank's loss
    loss.backward(); clip_grad_norm_(); optimiser.step()
    update_momentum(averaged, model)                            # where train.ema asks; validated instead of the model
    memory.enqueue(momentum_BD)

In warm-up, and without a memory, the candidates are the online batch itself. Memory, statistics and draws advance with
every batch; with `train.accumulate`, the optimiser steps at the last batch of a window, and the momentum towers are
updated at its first.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.evidence.listed import ListedPosterior
from pipeline.evidence.lookup import KnownPairs
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import Batch, Inputs, epoch_plan, training_batches
from pipeline.models.memory import Memory
from pipeline.models.momentum import momentum_copy, update_momentum
from pipeline.models.towers import MatchingModel, Tokens
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from pipeline.runtime.beside import BatchVectors, Beside, core_is_free
from pipeline.runtime.processes import gather, process_count, seed_own_draws, uniform, weight_of_rows, worked_span
from pipeline.sampling.candidates import Moment
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import cutdown_threshold
from pipeline.sampling.thresholds import Thresholds
from pipeline.training.accumulation import ALONE, Window, window_end, window_of
from pipeline.training.cached import CachedVectors, parts
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.health import check_finite, collapse_warning, means_of
from pipeline.training.impact import NegativeImpact
from pipeline.training.objective import MatchingObjective, Pairs
from pipeline.training.optimiser import make_optimiser, rate_of, set_rate
from pipeline.training.schedule import scheduled_rate
from pipeline.training.state import Progress, TrainingState
from pipeline.training.trust import LearnedTrust, own_probability
from pipeline.training.untrained import update_by_split

if TYPE_CHECKING:
    from accelerate import Accelerator

RECORDS_PER_EPOCH = 10
VALIDATION_BATCH = 256  # not evaluate.batch_size: a training must not depend on how it is evaluated later


class Training:
    """One training run, from the base towers to the last epoch.

    Args:
        params: all parameters.
        model: the model to train; it is moved to the accelerator's device.
        train: the training split.
        val: the validation split.
        accelerator: device, precision and processes.
        checkpoint: where the state is saved.
        truth_NM: (N, M) bool, if every match of the training split is known.
        impact: NPC's weighting of pairs, for the same `model`.
        on_record: called with the whole history so far, whenever a checkpoint contains it.
        listed: the posterior from evidence, by id.
        trust_M: the weight of each training pair's loss; None: 1.
        learned: the same, as the training learns it.
        known: what frozen encoders say of pairs, for the methods that ask.
        matches: 1 for unpaired images and captions that are known to match, by id.
    """

    def __init__(
        self,
        params: Params,
        model: MatchingModel,
        train: Inputs,
        val: Inputs,
        accelerator: Accelerator,
        checkpoint: Checkpoint,
        truth_NM: Tensor | None = None,
        impact: NegativeImpact | None = None,
        on_record: Callable[[list[dict[str, Any]]], None] = lambda history: None,
        *,
        listed: ListedPosterior | None = None,
        trust_M: Tensor | None = None,
        learned: LearnedTrust | None = None,
        known: KnownPairs | None = None,
        matches: ListedPosterior | None = None,
    ) -> None:
        """Prepare everything; `run` trains."""
        self.params, self.train_inputs, self.val_inputs = params, train, val
        self.accelerator, self.checkpoint, self.on_record = accelerator, checkpoint, on_record
        self.device = accelerator.device
        self.model = model.to(self.device)
        size, prefill = params.memory.size, params.memory.prefill
        self.memory = Memory(size, model.width, prefill).to(self.device) if size else None
        self.momentum_model = momentum_copy(self.model) if size else None
        self.averaged = None if params.train.ema is None else momentum_copy(self.model)
        self.statistics = SimilarityStatistics(params.sampler.statistics)
        self.thresholds = self._thresholds()
        self.objective = MatchingObjective(
            params.sampler,
            params.loss,
            params.train.warmup,
            self.statistics,
            self.memory,
            None if truth_NM is None else truth_NM.to(self.device),
            evidence=None if listed is None else listed.to(self.device),
            targets=params.targets,
            known=None if known is None else known.to(self.device),
            thresholds=self.thresholds,
            matches=None if matches is None else matches.to(self.device),
        )
        self.trust_M = None if trust_M is None else trust_M.to(self.device)
        self.impact, self.learned = impact, learned
        self.prepared, self.optimiser = accelerator.prepare(self.model, make_optimiser(self.model, params.train))
        # accelerate wraps the model's forward pass in lower precision; here only `autocast` decides where that applies
        accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.state = TrainingState(
            {
                "model": self.model,
                "optimiser": self.optimiser,
                "statistics": self.statistics,
                "memory": self.memory,
                "momentum": self.momentum_model,
                "averaged": self.averaged,
                "impact": self.impact,
                "trust": self.learned,
                "thresholds": None if self.thresholds is None else nn.ModuleList(self.thresholds),
                "scaler": accelerator.scaler,
            },
            self.device,
        )
        # NPC needs the gradient of single losses; recomputed activations change the random state, which threads share
        together = impact is not None or params.train.gradient_checkpointing
        self._beside = Beside(free=core_is_free(self.device) and not together)
        self._steps: list[dict[str, Tensor]] = []  # metrics since the last record
        self._warned = False
        self._ramp = 1.0  # how much of the first epoch after the warm-up is done

    @property
    def at(self) -> Progress:
        """The position."""
        return self.state.at

    def run(self) -> Progress:
        """Train from the current position to the last epoch.

        With `train.ema`, the model ends as the average of its weights; with no epoch, it is validated as it is.
        """
        if self.params.train.epochs == 0 and not self.at.history:
            self._append(self._validate())
            self._save()
        while self.at.epoch < self.params.train.epochs and not self._waited():
            self._run_epoch()
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
            self._save()
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.state_dict())
        return self.at

    def _waited(self) -> bool:
        """Whether `train.patience` epochs have ended without a better validation."""
        patience = self.params.train.patience
        return patience is not None and self.at.epoch > self.at.best.get("epoch", self.at.epoch) + patience

    def step(self, batch: Batch, *, warming_up: bool, window: Window = ALONE) -> dict[str, Tensor]:
        """One step on this process's part of a batch (see the top of this file); returns its metrics, 0-dimensional."""
        seed_own_draws(self.params.seed, self.at.step)
        if self.momentum_model is not None and window.first:
            update_momentum(self.momentum_model, self.model, self.params.model.momentum)
        with nullcontext() if window.last else self.accelerator.no_sync(self.prepared):
            logged, momentum = self._gradients(batch, warming_up, 1 / window.size)
        if window.last:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.params.train.clip)
            self.optimiser.step()
            self.model.bound_temperature()
            if self.averaged is not None:
                assert self.params.train.ema is not None
                update_momentum(self.averaged, self.model, self.params.train.ema)
            self.optimiser.zero_grad()
        if momentum is not None:
            assert self.memory is not None
            self.memory.enqueue(momentum.image, momentum.text, momentum.image_id, momentum.caption_id)
        return logged

    def _gradients(self, batch: Batch, warming_up: bool, share: float) -> tuple[dict[str, Tensor], Pairs | None]:
        """Forward and backward; adds `share` of the gradient to the parameters' gradients."""
        images = self.model.normalise(batch.images)  # once, for both kinds of towers
        momentum_pairs = self._beside.start(self._momentum_pairs, images, batch, warming_up)
        part = self.params.train.part
        largest = -(-batch.global_size // process_count())  # of all processes, which must encode in the same way
        vectors = (
            BatchVectors(self._encode(images, batch.texts), self._beside)
            if part is None or part >= largest
            else CachedVectors(self._encode, images, batch.texts, part)
        )
        own = Pairs(vectors.image_bD, vectors.text_bD, batch.image_id, batch.caption_id)
        in_batch = warming_up or self.memory is None
        everyone = Pairs(
            *(gather(part, batch.global_size, differentiable=in_batch and i < 2) for i, part in enumerate(own))
        )
        momentum = momentum_pairs()
        draws_2B = uniform(self.params.seed, self.at.step, batch.global_size)
        draws_2b = draws_2B[:, batch.first : batch.first + len(images)]
        loss_b, metrics = self.objective(
            own,
            everyone,
            momentum,
            batch.first,
            draws_2b.to(self.device, non_blocking=True),
            self.model.temperature,
            warming_up=warming_up,
            bias=self._bias,
            moment=Moment(self.at.step, self.at.epoch, self._ramp),
        )
        if self.learned is not None:
            probability_B = own_probability(everyone.image, everyone.text, everyone.image_id, self.model.temperature)
            loss_B = gather(loss_b.detach(), batch.global_size)
            self.learned.update(everyone.caption_id, loss_B, probability_B, warming_up=warming_up)
        if (trust_M := self.trust_M if self.learned is None else self.learned.trust_M) is not None:
            trust_b = trust_M[batch.caption_id]
            loss_b, metrics = loss_b * trust_b, metrics | {"pairs/weight_mean": trust_b.mean()}
        # processes average their gradients: each part must count by its number of pairs
        weight = weight_of_rows(batch.global_size)
        loss = loss_b.sum() * weight / batch.global_size
        logged = {"train/loss": loss.detach()} | metrics
        if self.impact is not None and batch.entries is not None:
            impact = self.impact(loss_b, batch, rate_of(self.optimiser))
            loss = impact.loss
            logged |= {"pairs/weight_mean": impact.weight.mean(), "pairs/bank_loss": impact.bank_loss.mean()}
        if process_count() > 1:  # the others are means over this process's pairs: they count by its share, as the loss
            counted = len(images) * weight / batch.global_size
            logged = {name: value if name == "train/loss" else value * counted for name, value in logged.items()}
        direct = [part for part in (self.model.logit_scale, self.model.logit_bias) if part is not None]
        for parameter in direct:  # DistributedDataParallel waits for a gradient of every parameter
            loss = loss + 0 * parameter
        self.accelerator.backward(loss * share)
        vectors.backward(direct, lambda: self.accelerator.no_sync(self.prepared))
        return logged, momentum

    def _thresholds(self) -> list[Thresholds] | None:
        """Of each image and of each caption, for GloFND."""
        if self.params.sampler.strategy != "glofnd":
            return None
        counts = len(self.train_inputs.names), len(self.train_inputs.caption_image)
        return [Thresholds(count).to(self.device) for count in counts]

    @property
    def _bias(self) -> float | Tensor:
        """The sigmoid loss's."""
        bias = self.params.loss.bias
        return bias if isinstance(bias, float) else 0.0 if self.model.logit_bias is None else self.model.logit_bias

    def _encode(self, images: Tensor, texts: Tensor | Tokens) -> tuple[Tensor, Tensor]:
        with self.accelerator.autocast():
            image, text = self.prepared(images, texts)
        return image, text

    @torch.no_grad()
    def _momentum_pairs(self, images: Tensor, batch: Batch, warming_up: bool) -> Pairs | None:
        """None without a memory, or where it does not change: with `random`, FNE's code leaves it alone in warm-up."""
        if self.momentum_model is None or (warming_up and self.params.memory.prefill == "random"):
            return None
        with self.accelerator.autocast():
            encoded = [
                self.momentum_model(*part) for part in parts(images, batch.texts, self.params.train.part or len(images))
            ]
        image, text = (torch.cat(side) for side in zip(*encoded, strict=True))
        return Pairs(*(gather(part, batch.global_size) for part in (image, text, batch.image_id, batch.caption_id)))

    def _run_epoch(self) -> None:
        settings, at = self.params.train, self.at
        warming_up = at.epoch < settings.warmup_epochs
        if at.batch == 0:
            self.statistics.reset()
            if self.learned is not None:
                self.learned.begin_epoch()
        plan = epoch_plan(len(self.train_inputs.caption_image), settings.batch_size, self.params.seed, at.epoch)
        spans = [worked_span(len(batch)) for batch in plan]
        validated = {
            math.ceil(len(plan) * part / settings.validations_per_epoch)
            for part in range(1, settings.validations_per_epoch + 1)
        }
        recorded = validated | set(range(0, len(plan), max(1, len(plan) // RECORDS_PER_EPOCH)))
        # a checkpoint holds neither gradients, as in the middle of a window, nor metrics that are not yet recorded
        recorded |= {window_end(done, len(plan), settings.accumulate) for done in recorded}
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
        label, left = f"epoch {at.epoch + 1}/{settings.epochs}", len(plan) - at.batch
        for batch in progress(batches, label=label, total=left, rows=settings.batch_size):
            rate = scheduled_rate(settings, at.epoch, at.batch, len(plan), len(self.train_inputs.caption_image))
            set_rate(self.optimiser, rate)
            self._ramp = min(1.0, max(0.0, at.epoch - settings.warmup_epochs + at.batch / len(plan)))
            window = window_of(at.batch, len(plan), settings.accumulate)
            self._steps.append(self.step(batch.to(self.device), warming_up=warming_up, window=window))
            at.batch, at.step = at.batch + 1, at.step + 1
            if at.batch in recorded:
                self._record(validate=at.batch in validated)
                if window.last and self.checkpoint.due():
                    self._save()

    def _record(self, *, validate: bool) -> None:
        """Append the mean since the last record to the history; the only place where the host waits for the device."""
        row = means_of(self._steps)
        self._steps = []
        check_finite(row["train/loss"], self.model, self.at.epoch, self.at.step)
        warning = collapse_warning(row.get("similarity/collapse", 0.0), self.at.epoch)
        if warning and not self._warned and self.accelerator.is_main_process:
            self._warned = True
            print(warning, file=sys.stderr)
        row["train/lr"] = rate_of(self.optimiser)
        for name, population in self.statistics.as_numbers().items():
            row[f"similarity/{name}_mean"] = population["mean"]
            row[f"similarity/{name}_std"] = population["variance"] ** 0.5
            row[f"similarity/{name}_count"] = population["count"]
        row["sampler/threshold"] = cutdown_threshold(row["similarity/positive_mean"], self.params.sampler.cutdown)
        if validate:
            row |= self._validate()
            for weighted in (self.impact, self.learned):
                row |= {} if weighted is None else weighted.summary()
        self._append(row)

    def _append(self, row: dict[str, float]) -> None:
        place = {"epoch": self.at.epoch, "step": self.at.step, "time": int(time.time() * 1000)}
        self.at.history.append(place | row)

    def _validate(self) -> dict[str, float]:
        image_ND, text_MD = encode_split(self.averaged or self.model, self.val_inputs, VALIDATION_BATCH)
        if self.params.train.epochs == 0:  # no batch has updated the statistics
            update_by_split(self.statistics, image_ND, text_MD, self.val_inputs.caption_image, self.params)
        found = recalls(*retrieval_ranks(image_ND, text_MD, self.val_inputs.caption_image))
        if found["rsum"] > self.at.best_rsum:
            self.at.best_rsum = found["rsum"]
            self.at.best = {"epoch": self.at.epoch, "step": self.at.step, "statistics": self.statistics.as_numbers()}
            if self.accelerator.is_main_process:
                self.checkpoint.save({"model": (self.averaged or self.model).state_dict()}, "best")
        return {f"val/{name.replace('_', '/')}": value for name, value in found.items()}

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.checkpoint.save(self.state.state_dict())
        self.on_record(self.at.history)

    def resume(self) -> bool:
        """Resume from the last checkpoint; False if there is none."""
        state = self.checkpoint.load()
        if state is None:
            return False
        self.state.load_state_dict(state)
        self.on_record(self.at.history)
        return True

    def restore_best(self) -> None:
        """Load the weights of the best validation."""
        best = self.checkpoint.load("best")
        if best is None:
            raise InputError(f"{self.checkpoint.folder}: holds no best weights; delete the folder and train again")
        self.model.load_state_dict(best["model"])
