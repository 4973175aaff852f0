"""The checkpoints that FNE's and NPC's authors published, read without running them, as transformers' models.

FNE's `model_best.pth.tar` was trained with the mean over padding too (`model.pooling: mean_all`).
"""

from __future__ import annotations

import argparse
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.models.foreign.openai_clip import openai_clip_config, openai_to_transformers
from pipeline.models.foreign.torch_file import load_torch_file
from pipeline.models.foreign.torch_pickle import Refused
from pipeline.models.pretrained import silence_transformers

if TYPE_CHECKING:
    from transformers import CLIPModel, PretrainedConfig, PreTrainedModel

_TOWERS = {"image": "visual_encoder.", "text": "text_encoder."}
_RECORDED = ("epoch", "best_rsum", "Eiters", "name")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `torch.save` writes, or wrote before torch 1.6: tensors, plain values, `opt` namespaces, numpy numbers.

    Raises:
        InputError: naming the file and what is refused: any other class or function, a TorchScript archive,
            a file that is cut off, one that holds no dict.
    """
    scalar: Any = numpy.float64(0).__reduce__()[0]  # the function that rebuilds one, under its names in numpy 1 and 2
    kinds = [type(numpy.dtype(code)) for code in ("f4", "f8", "i4", "i8", "?")]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        allowed = torch.serialization.safe_globals([argparse.Namespace, numpy.dtype, *kinds, *names])
        with allowed, warnings.catch_warnings(action="ignore"):  # the error says it all
            content = load_torch_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except Exception as error:  # whatever a damaged or hostile file provokes is the file's fault
        raise InputError(f"{path}: not read: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a checkpoint's dict, found {type(content).__name__}")
    return content


def recognise(checkpoint: Mapping[str, Any]) -> Literal["fne", "npc"]:
    """Whose checkpoint it is; OpenAI's own state dict counts as "npc", which has the same names.

    Raises:
        InputError: when it is neither, with the keys that were found.
    """
    state = _state(checkpoint)
    if any(name.startswith(_TOWERS["image"]) for name in state):
        return "fne"
    if any(name.startswith("visual.") for name in state):
        return "npc"
    found = ", ".join(str(name)[:40] for name in [*state][:5] or [*checkpoint][:5])
    raise InputError(
        "neither FNE's checkpoint ('model' with visual_encoder.*, text_encoder.*) nor NPC's ('state_dict' with "
        f"visual.*, transformer.*); found {found or 'nothing'}"
    )


def published_record(checkpoint: Mapping[str, Any]) -> dict[str, int | float | str]:
    """What the authors wrote beside the weights: epoch, best_rsum, Eiters, name, where they are there and finite."""
    record: dict[str, int | float | str] = {}
    for key in _RECORDED:
        value = checkpoint.get(key)
        if isinstance(value, Tensor | numpy.generic) and math.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value)):
            record[key] = value
    return record


def fne_towers(checkpoint: Mapping[str, Any], base_folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """FNE's image and text model, in evaluation mode, float32; their configurations are `base_folder`'s.

    The momentum towers and the queues are left out. Where a pooler is missing, mean pooling does not miss it.

    Raises:
        InputError: naming the first parameter that is missing, left over, or of another shape than the base's, with
            both shapes.
    """
    from transformers import AutoConfig

    state = _state(checkpoint)
    towers = []
    for side, prefix in _TOWERS.items():
        folder = base_folder / side
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder / 'config.json'}: not found; `dvc repro base` makes it")
        config = AutoConfig.from_pretrained(folder.resolve(), trust_remote_code=False)
        tower = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        tower.pop("embeddings.position_ids", None)  # 0, 1, 2, …: a buffer that transformers used to save
        towers.append(_filled(_model_class(config), config, tower, f"{prefix}*, for {folder}"))
    image, text = towers
    return image, text


def npc_clip(checkpoint: Mapping[str, Any]) -> CLIPModel:
    """NPC's (or OpenAI's) CLIP, in evaluation mode, float32.

    Raises:
        InputError: naming the parameter that is missing, left over or of a wrong shape.
    """
    from transformers import CLIPModel

    state = _state(checkpoint)
    return _filled(CLIPModel, openai_clip_config(state), openai_to_transformers(state), "CLIP")


def _state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict in a checkpoint, or the checkpoint itself, without DataParallel's prefix; {} if there is none."""
    state = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if isinstance(state, list) and len(state) == 1:
        state = state[0]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        return {}
    for name, value in state.items():
        # a view may say that it is a billion copies of the one number which the file holds
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise InputError(f"{name[:80]!r}: no plain tensor but {value.layout} on {value.device.type}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{name[:80]!r} of shape {tuple(value.shape)}: the file holds fewer numbers than that")
    shared = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(shared): value for name, value in state.items()}


def _model_class(config: PretrainedConfig) -> type[Any]:
    from transformers import MODEL_MAPPING

    found: Any = MODEL_MAPPING[type(config)]
    return found if isinstance(found, type) else found[0]  # a few configurations have several classes


def _filled(model_class: type[Any], config: PretrainedConfig, state: Mapping[str, Tensor], place: str) -> Any:
    """A model with exactly these weights; transformers itself knows which names it has changed since."""
    silence_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a pooler that is missing is the same every time
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict={name: value.detach().float().clone() for name, value in state.items()},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported below, the first by name, as one line
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
    return model.eval()


def _reason(error: Exception) -> str:
    """Torch explains over many lines how its safety can be switched off; here it says what it met."""
    if isinstance(error, Refused):
        return str(error)
    said = " ".join(str(error).split())
    if found := re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", said):
        return f"it asks for {found[1]}, which is refused; only weights and plain values are read"
    said = said.split(". ")[0][:200] or type(error).__name__
    return f"cut off, or not what torch.save writes of weights and plain values ({said})"
