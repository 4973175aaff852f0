"""Load the checkpoints published by FNE's and NPC's authors as transformers' models, without running their code.

FNE's `model_best.pth.tar` was trained with the mean also over padding (`model.pooling: mean_all`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.files import read_record
from pipeline.models.dual import whole_class
from pipeline.models.foreign.conversion import converted
from pipeline.models.foreign.openai_clip import openai_clip_config, openai_to_transformers
from pipeline.models.quiet import silence_transformers
from pipeline.models.sizes import check_size

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, PretrainedConfig, PreTrainedModel

_TOWERS = {"image": "visual_encoder.", "text": "text_encoder."}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint as plain data."""

    weights: Mapping[str, Tensor]
    """Its state dict, without DataParallel's prefix; empty if it has none."""
    record: Mapping[str, int | float | str]
    """Other values in the checkpoint, if present and finite: epoch, best_rsum, Eiters, name."""
    keys: tuple[str, ...]
    """Its first keys."""


def read_checkpoint(path: Path) -> PublishedCheckpoint:
    """Read a file of `torch.save` with weights and plain values, within the limits of `conversion`.

    Raises:
        InputError: naming the file and the reason: any other class or function, a TorchScript archive, a file that is
            cut off or holds no dict, more memory or time than a checkpoint needs.
    """
    from safetensors.torch import load_file

    with converted("checkpoint", path) as folder:
        weights = load_file(folder / "weights.safetensors")
        about = read_record(folder / "record.json")
    shared = "module." if all(name.startswith("module.") for name in weights) else ""
    weights = {name.removeprefix(shared): tensor for name, tensor in weights.items()}
    return PublishedCheckpoint(weights, about["record"], tuple(about["keys"]))


def recognise(checkpoint: PublishedCheckpoint) -> Literal["fne", "npc"]:
    """The kind of the checkpoint; OpenAI's own state dict counts as "npc", which has the same names.

    Raises:
        InputError: when it is neither, with the keys found.
    """
    if any(name.startswith(_TOWERS["image"]) for name in checkpoint.weights):
        return "fne"
    if any(name.startswith("visual.") for name in checkpoint.weights):
        return "npc"
    found = ", ".join(name[:40] for name in [*checkpoint.weights][:5] or checkpoint.keys)
    raise InputError(
        "neither FNE's checkpoint ('model' with visual_encoder.*, text_encoder.*) nor NPC's ('state_dict' with "
        f"visual.*, transformer.*); found {found or 'nothing'}"
    )


def fne_towers(weights: Mapping[str, Tensor], base_folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """FNE's image and text model, in evaluation mode, float32; their configurations are `base_folder`'s.

    The momentum towers and the queues are left out. A missing pooler is allowed: mean pooling does not use it.

    Raises:
        InputError: naming the first parameter that is missing, unexpected, not finite, or of another shape than the
            base's (with both shapes).
    """
    from transformers import AutoConfig

    towers = []
    for side, prefix in _TOWERS.items():
        folder = base_folder / side
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder / 'config.json'}: not found; `dvc repro base` makes it")
        config = AutoConfig.from_pretrained(folder.resolve(), trust_remote_code=False)
        tower = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        tower.pop("embeddings.position_ids", None)  # 0, 1, 2, …: a buffer that transformers used to save
        towers.append(_filled(whole_class(config), config, tower, f"{prefix}*, for {folder}"))
    image, text = towers
    return image, text


def npc_clip(weights: Mapping[str, Tensor]) -> CLIPModel:
    """NPC's (or OpenAI's) CLIP, in evaluation mode, float32.

    Raises:
        InputError: naming the parameter that is missing, unexpected, not finite or of a wrong shape.
    """
    return clip_model(openai_clip_config(weights), weights)


def clip_model(config: CLIPConfig, weights: Mapping[str, Tensor]) -> CLIPModel:
    """The CLIP that `config` describes with weights under OpenAI's names; raises as `npc_clip`."""
    from transformers import CLIPModel

    try:
        check_size(config.to_dict(), lambda: CLIPModel(config), (tensor.shape for tensor in weights.values()))
    except ValueError as error:
        raise InputError(f"CLIP: {error}") from None
    return _filled(CLIPModel, config, openai_to_transformers(weights), "CLIP")


def _filled(model_class: type[Any], config: PretrainedConfig, state: Mapping[str, Tensor], place: str) -> Any:
    """A model with exactly these weights; transformers itself maps old names of parameters."""
    silence_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a missing pooler gets the same weights every time
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict={name: value.detach().float().clone() for name, value in state.items()},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported below, as one line about the first
            output_loading_info=True,
        )
    wrong_shapes, surplus, missing = (
        sorted(report[kind]) for kind in ("mismatched_keys", "unexpected_keys", "missing_keys")
    )
    for name, found, expected in wrong_shapes:
        raise InputError(f"{place}: {name} has the shape {tuple(found)}, expected {tuple(expected)}")
    for name in surplus:
        raise InputError(f"{place}: {name} is left over; the model has no such parameter")
    for name in missing:
        if not name.startswith("pooler."):
            shape = tuple(model.state_dict()[name].shape)
            raise InputError(f"{place}: {name} is missing, expected with the shape {shape}")
    for name, value in state.items():
        if not value.isfinite().all():
            raise InputError(f"{place}: {name} has numbers that are not finite")
    return model.eval()
