"""Rows of features, prepared images or tokens in numbered safetensors files, read memory-mapped.

A shard holds either `feature` (n, W), or `value` (all rows' items end to end) with `offset` (n + 1): row i is
`value[offset[i]:offset[i + 1]]`, a JPEG's bytes or a caption's token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.files import read_tensors, write_tensors
from pipeline.runtime.processes import process_count, process_index

JOINED_BYTES = 1 << 29
SHARD_ROWS = 1024  # an interrupted features stage loses at most this many


def shard_path(folder: Path, kind: str, number: int) -> Path:
    """`folder/images-00000.safetensors`."""
    return folder / f"{kind}-{number:05d}.safetensors"


def write_shards(
    folder: Path,
    kind: str,
    rows: int,
    make: Callable[[range], dict[str, Tensor]],
    track: Callable[[range], Iterable[int]],
) -> None:
    """Write `rows` rows in shards of `SHARD_ROWS`; complete shards of an interrupted run are kept.

    Several processes take turns, shard by shard; the caller waits for the others before it reads all shards.

    Args:
        folder: of the shards.
        kind: "images" or "captions".
        rows: how many there are.
        make: the tensors of the shard that holds a range of rows.
        track: wraps the shards' numbers, to show progress.
    """
    for number in track(range(process_index(), -(-rows // SHARD_ROWS), process_count())):
        path = shard_path(folder, kind, number)
        if not path.exists():
            write_tensors(path, make(range(number * SHARD_ROWS, min(rows, (number + 1) * SHARD_ROWS))))


def pack(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """The shard that holds rows of different lengths (1-dimensional, of one dtype)."""
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return {"value": torch.cat(list(rows)), "offset": lengths.cumsum(0)}


def feature_shards(folder: Path, kind: str) -> Tensor | MappedFeatures:
    """All rows (N, W) of fixed-width shards: joined in memory up to `JOINED_BYTES`, else memory-mapped.

    Raises:
        InputError: naming the shard that is missing, damaged, or of another width than the others.
    """
    parts: list[Tensor] = []
    for path, shard in _shards(folder, kind):
        part = shard.get("feature", torch.empty(0))
        if part.dim() != 2 or not part.is_floating_point():
            raise InputError(f"{path}: holds no feature of shape (rows, width); run `dvc repro features`")
        if parts and (part.shape[1], part.dtype) != (parts[0].shape[1], parts[0].dtype):
            raise InputError(
                f"{path}: rows of {part.shape[1]} {part.dtype}, expected {parts[0].shape[1]} {parts[0].dtype} as in "
                "the first shard; run `dvc repro features`"
            )
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if sum(part.nbytes for part in parts) <= JOINED_BYTES else MappedFeatures(parts)


def all_features(folder: Path, kind: str) -> Tensor:
    """All rows (N, W) in memory; raises as `feature_shards`."""
    found = feature_shards(folder, kind)
    return found if isinstance(found, Tensor) else torch.cat(list(found.shards))


class MappedFeatures:
    """Rows of the same width in memory-mapped shards; only requested rows are read."""

    def __init__(self, shards: Sequence[Tensor]) -> None:
        """Take shards of `SHARD_ROWS` rows; the last may have fewer."""
        self.shards = shards

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows (b,) as (b, W)."""
        return torch.stack([self.shards[row // SHARD_ROWS][row % SHARD_ROWS] for row in rows.tolist()])


class PackedShards:
    """Rows of different lengths, by number, from memory-mapped shards."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Open all shards of `kind` below `folder`.

        Raises:
            InputError: naming the shard that is missing or damaged.
        """
        self._shards = [_packed(path, shard) for path, shard in _shards(folder, kind)]
        self._rows = sum(len(shard["offset"]) - 1 for shard in self._shards)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> Tensor:
        """Row `row`, a view into the mapped file."""
        shard = self._shards[row // SHARD_ROWS]
        start, end = shard["offset"][row % SHARD_ROWS : row % SHARD_ROWS + 2].tolist()
        return shard["value"][start:end]


def _packed(path: Path, shard: dict[str, Tensor]) -> dict[str, Tensor]:
    value, offset = shard.get("value"), shard.get("offset")
    if value is None or offset is None or value.dim() != 1 or offset.dim() != 1 or offset.dtype != torch.int64:
        raise InputError(f"{path}: holds no value and offset of one dimension; run `dvc repro features`")
    steps = offset.diff()
    if len(steps) == 0 or int(offset[0]) != 0 or int(offset[-1]) != len(value) or bool((steps < 0).any()):
        raise InputError(
            f"{path}: its offsets do not divide its {len(value)} values into rows; run `dvc repro features`"
        )
    return shard


def _shards(folder: Path, kind: str) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    paths = sorted(folder.glob(f"{kind}-*.safetensors"))
    if not paths:
        raise InputError(f"{folder}: holds no {kind}-*.safetensors; `dvc repro features` makes them")
    for path in paths:
        yield path, read_tensors(path, "features")
