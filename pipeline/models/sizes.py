"""Whether a model's configuration can be that of its weights, asked before memory is set aside for what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEPTH = re.compile(r"(layers?|depths?|blocks)$")
SIZE = re.compile(r"(size|dim|width|channels|features|embeddings|positions)$")
# Below these anything goes: layers may share their weights, and positions need not have any.
SMALL_DEPTH = 256
SMALL_NUMBERS = 1 << 26


def check_sizes(config: Mapping[str, Any], weights: Path) -> None:
    """Compare a configuration in transformers' format with the tensors of a safetensors file.

    Raises:
        ValueError: naming the key, for more layers than the file has tensors, or for a table of more numbers.
    """
    from safetensors import safe_open

    with safe_open(weights, "pt") as opened:
        names = opened.keys()
        shapes = [opened.get_slice(name).get_shape() for name in names]
    most_layers = max(len(shapes), SMALL_DEPTH)
    most_numbers = max(sum(map(math.prod, shapes)), SMALL_NUMBERS)
    for key, value, width in _numbers(config):
        if DEPTH.search(key) and value > most_layers:
            raise ValueError(f"config.json: {key} = {value}, but {weights.name} holds {len(shapes)} tensors")
        if SIZE.search(key) and value * width > most_numbers:
            raise ValueError(f"config.json: {key} = {value}: more numbers than {weights.name} holds")


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
