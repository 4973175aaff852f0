"""Which parameters of a tower are trained, and how deep each lies: freezing, LoRA, and depths for learning rates."""

from __future__ import annotations

import copy
from typing import Any, Literal

from torch import nn

from pipeline.errors import InputError, needs_extra
from pipeline.params import LoraParams

Frozen = Literal["none", "all"] | int


def layers_of(tower: nn.Module) -> tuple[str, int]:
    """The name of a tower's longest list of layers, and its length; ("", 0) where it has none."""
    lists = [(name, len(part)) for name, part in tower.named_modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=lambda found: found[1], default=("", 0))


def depths(tower: nn.Module) -> dict[str, int]:
    """Of each parameter: 0 below the first layer, k in layer k, one more than the layers above them (BEiT's count)."""
    place, count = layers_of(tower)
    depth, found = 0, {}
    for name, _ in tower.named_parameters():
        if place and name.startswith(f"{place}."):
            depth = int(name.removeprefix(f"{place}.").split(".")[0]) + 1
            found[name] = depth
        else:
            found[name] = count + 1 if depth or not count else 0
    return found


def freeze(tower: nn.Module, frozen: Frozen, key: str) -> None:
    """Stop training a tower: all of it, or its first layers and what is below them.

    Raises:
        InputError: when it has fewer layers; `key` is the parameter.
    """
    if frozen in ("none", 0):
        return
    _, count = layers_of(tower)
    if frozen != "all" and int(frozen) > count:
        raise InputError(
            f"{key} = {frozen}: the tower has {count} layers in a list; use all, none, or a number up to it"
        )
    deepest = count + 1 if frozen == "all" else int(frozen)
    depth_of = depths(tower)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and depth_of[name] > deepest)


def add_lora(backbone: nn.Module, lora: LoraParams, key: str) -> None:
    """Add low-rank updates to linear layers in place; they alone are trained then (Hu et al. 2022).

    Raises:
        InputError: without peft, or when no layer has a name in `lora.targets`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError(f"model.lora.rank = {lora.rank}: {needs_extra('lora')}") from None
    linear = [name for name, part in backbone.named_modules() if type(part) is nn.Linear]
    chosen = [name for name in linear if not lora.targets or name.split(".")[-1] in lora.targets]
    if not chosen:
        known = ", ".join(sorted({name.split(".")[-1] for name in linear}))
        raise InputError(f"model.lora.targets = {lora.targets}: no linear layer of {key} has such a name, of {known}")
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=chosen, init_lora_weights=True
    )
    inject_adapter_in_model(config, backbone)


def merged(backbone: Any) -> Any:
    """A copy whose weights contain its low-rank updates: a plain model of transformers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(backbone)
    for name, part in [*plain.named_modules()]:
        if isinstance(part, BaseTunerLayer):
            part.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, part.get_base_layer())
    return plain
