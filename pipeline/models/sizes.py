"""Check that a configuration fits its weights, before memory is allocated for the model that it describes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

DEPTH = re.compile(r"(layers?|depths?|blocks)$")
# Sizes below these are not checked: layers may share weights, and positions need not have any.
SMALL_DEPTH = 256
SMALL_NUMBERS = 1 << 26


def check_size(config: Mapping[str, Any], build: Callable[[], nn.Module], shapes: Iterable[Iterable[int]]) -> None:
    """Compare a configuration in transformers' format, and the model that `build` makes from it, with the weights.

    The model is built on the meta device (shapes without values). `shapes` are those of the weights.

    Raises:
        ValueError: for more layers than tensors, or more parameters than numbers in the weights.
    """
    held = [math.prod(shape) for shape in shapes]
    for key, value in _whole_numbers(config):
        if DEPTH.search(key) and value > max(len(held), SMALL_DEPTH):
            raise ValueError(f"its configuration says {key} = {value}, but its weights are {len(held)} tensors")
    with torch.device("meta"):
        model = build()
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if described > sum(held) + SMALL_NUMBERS:
        raise ValueError(f"its configuration describes {described} numbers, but its weights hold {sum(held)}")


def _whole_numbers(section: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _whole_numbers(value)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int):
                yield key, number
