"""From parameters and the earlier stages' outputs to a training that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.bank.table import bank_figures, read_bank
from pipeline.data.splits.format import Split, read_split
from pipeline.data.splits.truth_file import Truth, read_noise
from pipeline.errors import InputError
from pipeline.features.inputs import Inputs
from pipeline.models import pretrained
from pipeline.models.towers import recompute_activations
from pipeline.params import ModelParams, Params
from pipeline.paths import BANK, BANK_RECORD
from pipeline.runtime.processes import use_threads
from pipeline.training.build import joint_width, learn_temperature, make_model, save_trained
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.impact import NegativeImpact
from pipeline.training.loop import Training

LARGEST_TRUTH = 1 << 30  # entries of the training split's truth held as one table


def open_inputs(params: Params, features: Path, split_folder: Path, name: str, pad: int, *, augment: bool) -> Inputs:
    """One split's inputs.

    Raises:
        InputError: when `features` was made for other parameters.
    """
    manifest = pretrained.read_record(features / "features.json")
    for key in ("train", "image_size", "features_dtype"):
        wanted = getattr(params.model, key)
        if manifest.get(key) != wanted:
            raise InputError(
                f"{features / 'features.json'}: made for model.{key} {manifest.get(key)}, params.yaml says {wanted}; "
                "run `dvc repro features`"
            )
    split = read_split(split_folder / f"{name}.json")
    return Inputs(features / name, split, manifest, params.model, pad, augment=augment)


def open_training(
    params: Params,
    features: Path,
    split_folder: Path,
    base_folder: Path,
    truth: Truth | None,
    checkpoint: Checkpoint,
    on_record: Callable[[list[dict[str, Any]]], None],
    bank_folder: Path = BANK,
) -> tuple[Training, Callable[[Path], None]]:
    """A training, and what saves its model into a folder.

    Raises:
        InputError: when a precision needs hardware that is not here, or the stages' outputs do not fit together.
    """
    from accelerate import Accelerator

    if params.train.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("train.precision = 'fp16': needs a GPU; on a CPU use \"no\" or bf16")
    torch.manual_seed(params.seed)
    accelerator = Accelerator(mixed_precision=params.train.precision, cpu=not torch.cuda.is_available())
    base = pretrained.load(base_folder)
    pad = base.tokenizer.pad_token_id
    train = open_inputs(params, features, split_folder, "train", pad, augment=params.train.augment == "fne")
    val = open_inputs(params, features, split_folder, "val", pad, augment=False)
    manifest = pretrained.read_record(features / "features.json")
    normalisation = (manifest["mean"], manifest["std"])
    model = make_model(base, params.model, train)
    if params.train.gradient_checkpointing:
        recompute_activations(model.image_tower, "image")
        recompute_activations(model.text_tower, "text")
    if params.loss.temperature == "learned":
        learn_temperature(model, base)
    use_threads(sum(parameter.numel() for parameter in model.parameters()))
    width = joint_width(model, train, *normalisation)
    table = _truth_table(truth, read_split(split_folder / "train.json"))
    impact = None
    if params.pairs.weighting == "npc":
        bank = read_bank(bank_folder, len(train.caption_image))
        model.to(accelerator.device)
        figures = bank_figures(pretrained.read_record(bank_folder / BANK_RECORD.name))
        impact = NegativeImpact(model, params, bank, read_noise(split_folder), accelerator.autocast, figures)
    training = Training(
        params, model, width, train, val, normalisation, accelerator, checkpoint, table, impact, on_record
    )

    def save(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        record = model_record(params.model, width, manifest)
        save_trained(folder, training.model, None if train.frozen else base, record)

    return training, save


def model_record(model: ModelParams, width: int, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `model.json` says beside the weights: how to read them, and how images are to be given to them."""
    return {
        "family": model.family,
        "train": model.train,
        "width": width,
        "pooling": model.pooling,
        "words": model.words,
        "captions": model.captions,
        "image_size": model.image_size,
        "mean": manifest["mean"],
        "std": manifest["std"],
    }


def _truth_table(truth: Truth | None, split: Split) -> Tensor | None:
    """(N, M) bool, where every pair of the training split is known and the table is of a bearable size."""
    if truth is None or not truth.exact or len(split.images) * len(split.captions) > LARGEST_TRUTH:
        return None
    table_NM = torch.zeros(len(split.images), len(split.captions), dtype=torch.bool)
    table_NM[torch.from_numpy(truth.image_P[truth.true_P]), torch.from_numpy(truth.caption_P[truth.true_P])] = True
    return table_NM
