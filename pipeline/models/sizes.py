"""Whether a model's configuration can be that of its weights, asked before memory is set aside for what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

DEPTH = re.compile(r"(layers?|depths?|blocks)$")
SIZE = re.compile(r"(size|dim|width|channels|features|embeddings|positions)$")
# Below these anything goes: layers may share their weights, and positions need not have any.
SMALL_DEPTH = 256
SMALL_NUMBERS = 1 << 26
MOST_MODULES = 1 << 13  # several times those of the largest towers; as many take a second
TIES = 4  # times that the same numbers may stand in a model before they are tied


def check_sizes(config: Mapping[str, Any], weights: Path) -> None:
    """Compare a configuration in transformers' format with the tensors of a safetensors file.

    Raises:
        ValueError: naming the key, for more layers than the file has tensors, or for a table of more numbers.
    """
    shapes = _shapes(weights)
    most_layers = max(len(shapes), SMALL_DEPTH)
    most_numbers = max(sum(map(math.prod, shapes)), SMALL_NUMBERS)
    for key, value, width in _numbers(config):
        if DEPTH.search(key) and value > most_layers:
            raise ValueError(f"config.json: {key} = {value}, but {weights.name} holds {len(shapes)} tensors")
        if SIZE.search(key) and value * width > most_numbers:
            raise ValueError(f"config.json: {key} = {value}: more numbers than {weights.name} holds")


def check_model(build: Callable[[], nn.Module], weights: Path) -> None:
    """Compare the model that `build` makes, on the meta device, where it has shapes but no numbers, with the weights.

    Each key may be small enough and their product too large.

    Raises:
        ValueError: for many more numbers than the file holds, or more modules than any tower has.
    """
    total = sum(map(math.prod, _shapes(weights)))
    modules = numbers = 0

    def count_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise ValueError(f"config.json: a model of more than {MOST_MODULES} modules")

    def count_numbers(_module: nn.Module, _name: str, tensor: torch.Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if tensor is None else tensor.numel()
        check(numbers, TIES * total)

    def check(found: int, held: int) -> None:
        if found > held + SMALL_NUMBERS:
            raise ValueError(f"config.json: a model of at least {found} numbers, but {weights.name} holds {total}")

    registered: list[Any] = [  # counted as they come: a depth may have any name, and building may not end
        hooks.register_module_module_registration_hook(count_module),
        hooks.register_module_parameter_registration_hook(count_numbers),
        hooks.register_module_buffer_registration_hook(count_numbers),
    ]
    try:
        with torch.device("meta"):
            model = build()
    finally:
        for hook in registered:
            hook.remove()
    check(sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers())), total)


def _shapes(weights: Path) -> list[list[int]]:
    from safetensors import safe_open

    with safe_open(weights, "pt") as opened:
        names = opened.keys()
        return [opened.get_slice(name).get_shape() for name in names]


def _numbers(section: Mapping[str, Any], width: int = 1) -> Iterator[tuple[str, int, int]]:
    """Every whole number: its key, itself (an image's side: its patches), the width of its section."""
    width = next((n for n in _whole(section.get("hidden_size")) if n > 0), width)
    patch = max([1, *_whole(section.get("patch_size"))])
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, width)
        for number in _whole(value):
            yield key, (number // patch) ** 2 if key == "image_size" else number, width


def _whole(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [number for number in values if isinstance(number, int)]
