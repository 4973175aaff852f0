"""Make a training from the parameters and the earlier stages' outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.bank.table import bank_metrics, read_bank
from pipeline.data.splits.format import Split, read_split
from pipeline.data.splits.judgment_file import read_judged
from pipeline.data.splits.truth_file import Truth, read_noise
from pipeline.errors import InputError
from pipeline.evidence.judged import judged_matches, judged_trust
from pipeline.evidence.lookup import read_known
from pipeline.evidence.start import start_model
from pipeline.evidence.table import pair_weights, read_listed, read_pairs
from pipeline.features.inputs import open_inputs
from pipeline.files import read_record
from pipeline.models.anchor import leave_out_untrained_heads
from pipeline.models.build import load_base, save_trained
from pipeline.models.towers import MatchingModel, recompute_activations
from pipeline.models.trainable import add_lora, freeze
from pipeline.objectives.sigmoid import FIRST_BIAS
from pipeline.params import IN_TRAINING, LossParams, Params
from pipeline.paths import BANK, BANK_RECORD, EVIDENCE
from pipeline.runtime.processes import LONGEST_WAIT, use_threads
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.impact import NegativeImpact
from pipeline.training.loop import Training
from pipeline.training.trust import LearnedTrust

if TYPE_CHECKING:
    from accelerate import Accelerator

LARGEST_TRUTH = 1 << 30  # entries of the training split's truth held as one table


def open_training(
    params: Params,
    features: Path,
    split_folder: Path,
    base_folder: Path,
    truth: Truth | None,
    checkpoint: Checkpoint,
    on_record: Callable[[list[dict[str, Any]]], None],
    bank_folder: Path = BANK,
    evidence_folder: Path = EVIDENCE,
) -> tuple[Training, Callable[[Path], None]]:
    """A training, and a function that saves its model into a folder.

    Raises:
        InputError: when the hardware lacks the precision, or the stages' outputs do not fit together.
    """
    if params.train.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("train.precision = 'fp16': needs a GPU; on a CPU use \"no\" or bf16")
    torch.manual_seed(params.seed)
    accelerator = open_accelerator(params.train.precision)
    base = load_base(base_folder, params.model)
    train, val = (
        open_inputs(params.model, features, split_folder, name, augment=augment)
        for name, augment in (("train", params.train.augment == "fne"), ("val", False))
    )
    model = start_model(base, params.model, params.loss.temperature, train, evidence_folder)
    learn_bias(model, params.loss)
    if params.train.epochs == 0:
        leave_out_untrained_heads(model)
    if params.train.gradient_checkpointing:
        recompute_activations(model.image_tower, "image")
        recompute_activations(model.text_tower, "text")
    if params.model.lora.rank:
        add_lora(model.image_tower, params.model.lora, "model.image")
        add_lora(model.text_tower, params.model.lora, "model.text")
    freeze(model.image_tower, params.train.freeze.image, "train.freeze.image")
    freeze(model.text_tower, params.train.freeze.text, "train.freeze.text")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("train.freeze: both towers are frozen and there is nothing else to train")
    use_threads(sum(parameter.numel() for parameter in model.parameters()))
    split = read_split(split_folder / "train.json")
    table = _truth_table(truth, split)
    listed = trust_M = matches = None
    judged = read_judged(split_folder, "train")
    if params.sampler.posterior == "evidence":
        listed = read_listed(evidence_folder, "train", split, params.sampler.prior, judged)
    if params.pairs.by_evidence:
        trust_M = pair_weights(read_pairs(evidence_folder, "train", split))
    if judged is not None:
        matches, trust_M = judged_matches(judged, split), judged_trust(trust_M, judged, len(split.captions))
    known = impact = learned = None
    if params.needs_known_pairs:
        known = read_known(evidence_folder, split, params, judged)
    if params.pairs.weighting in IN_TRAINING:
        learned = LearnedTrust(
            params.pairs.weighting,
            len(train.caption_image),
            params.pairs.seed,
            read_noise(split_folder),
            accelerator.device,
            judged,
        )
    if params.pairs.weighting == "npc":
        bank = read_bank(bank_folder, len(train.caption_image))
        model.to(accelerator.device)
        metrics = bank_metrics(read_record(bank_folder / BANK_RECORD.name, "bank"))
        impact = NegativeImpact(model, params, bank, read_noise(split_folder), metrics)
    training = Training(
        *(params, model, train, val, accelerator, checkpoint, table, impact, on_record),
        listed=listed,
        trust_M=trust_M,
        learned=learned,
        known=known,
        matches=matches,
    )
    for trained in (training.model, training.momentum_model) if params.train.compile else ():
        if trained is not None:
            trained.image_tower.compile()
            trained.text_tower.compile()

    def save(folder: Path) -> None:
        save_trained(folder, training.model, params.model, base)

    return training, save


def open_accelerator(precision: str) -> Accelerator:
    """Join the processes; they wait as long as the first waits for another run of the same experiment."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    joined = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[joined])


def learn_bias(model: MatchingModel, loss: LossParams) -> None:
    """Add the sigmoid loss's bias to the model's parameters, where it is learned."""
    if loss.name == "sigmoid" and loss.bias == "learned":
        model.logit_bias = nn.Parameter(torch.tensor(FIRST_BIAS))


def _truth_table(truth: Truth | None, split: Split) -> Tensor | None:
    """(N, M) bool; None unless every pair of the training split is known and the table is small enough."""
    if truth is None or not truth.exact or len(split.images) * len(split.captions) > LARGEST_TRUTH:
        return None
    table_NM = torch.zeros(len(split.images), len(split.captions), dtype=torch.bool)
    table_NM[torch.from_numpy(truth.image_P[truth.true_P]), torch.from_numpy(truth.caption_P[truth.true_P])] = True
    return table_NM
