"""Images inside shards of others (tar, parquet, base64 lines), read where they lie: each by its file and its place.

`data/raw/images.parquet` is the index: an image's name, the number of its shard, the place in it, the size in bytes,
and a digest of the content that is compared whenever the image is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

KEPT_GROUPS = 2  # row groups of parquet in memory, each up to some hundred images
KEPT_FILES = 64  # open at a time
BATCH_ROWS = 64  # read at a time
COLUMNS = ("name", "shard", "start", "size", "digest")


class Location(NamedTuple):
    """Where an image lies: its shard's path, the byte or the row at which it starts, its bytes there, its column.

    The column is parquet's; it is "" in a tar (plain bytes) and in a table of base64 lines.
    """

    path: str
    start: int
    size: int
    column: str = ""


def content_digest(content: bytes) -> int:
    """64 bits of an image's content."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


class ShardReader:
    """Reads images at locations, from several threads; keeps few files and row groups open."""

    def __init__(self) -> None:
        self._file = lru_cache(KEPT_FILES)(open_parquet)
        self._group = lru_cache(KEPT_GROUPS)(self._read_group)
        self._lock = threading.Lock()

    def read(self, location: Location) -> bytes:
        """The bytes of an image.

        Raises:
            InputError: naming the shard, if it is missing or damaged.
        """
        try:
            if location.column:
                return self._cell(location)
            with open(location.path, "rb") as handle:
                handle.seek(location.start)
                content = handle.read(location.size)
            return from_base64(content) if location.path.endswith(".tsv") else content
        except FileNotFoundError:
            raise InputError(f"{location.path}: not found; `dvc repro -f download` reads what is there") from None
        except (OSError, ValueError, IndexError, MemoryError) as error:
            raise InputError(f"{location.path}: damaged at {location.start}: {error}") from None

    def _cell(self, location: Location) -> bytes:
        with self._lock:  # pyarrow's reader is not for several threads
            path = Path(location.path)
            group, row = _group_of(self._file(path), location.start)
            cells = self._group(path, location.column, group)
        content = cells[row].as_py()
        if not isinstance(content, bytes):
            raise ValueError("no image in this row")
        return content

    def _read_group(self, path: Path, column: str, group: int) -> Any:
        (cells,) = self._file(path).read_row_group(group, columns=[column]).columns
        return flat_bytes(cells)


class ShardIndex:
    """The images of `data/raw/images.parquet` by name."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"shards"])
        self._shards = [(os.path.join(about["folder"], name), column) for name, column in about["files"]]
        self._columns = [table[name].to_numpy() for name in COLUMNS[1:]]
        self.names: list[str] = table["name"].to_pylist()
        self._reader = ShardReader()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    def contents(self) -> list[tuple[str, int, int]]:
        """Name, size in bytes and content digest of every image, in order."""
        _, _, sizes, digests = (column.tolist() for column in self._columns)
        return list(zip(self.names, sizes, digests, strict=True))

    def read(self, name: str) -> bytes:
        """The image's content; raises as `ShardReader.read`, for another content too, and `KeyError` for the name."""
        shard, start, size, digest = (int(column[self._rows[name]]) for column in self._columns)
        path, column = self._shards[shard]
        content = self._reader.read(Location(path, start, size, column))
        if content_digest(content) != digest:
            raise InputError(f"{path}: image {name!r} has changed since stage download; `dvc repro -f download`")
        return content


def write_index(path: Path, folder: Path, images: Mapping[str, tuple[Location, int]]) -> None:
    """Write the index of images that lie in shards below `folder`: their locations and digests by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = list(dict.fromkeys((location.path, location.column) for location, _ in images.values()))
    number = {shard: row for row, shard in enumerate(shards)}
    rows = [
        (name, number[location.path, location.column], location.start, location.size, digest)
        for name, (location, digest) in images.items()
    ]
    types = (pa.string(), pa.int32(), pa.int64(), pa.int64(), pa.int64())
    about = {"folder": str(folder), "files": [(os.path.relpath(place, folder), column) for place, column in shards]}
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)), metadata={"shards": json.dumps(about)})
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns, schema=schema), path)


def from_base64(content: bytes) -> bytes:
    """The bytes that a base64 text means, in its ordinary or its URL-safe alphabet."""
    return base64.b64decode(content.strip().replace(b"-", b"+").replace(b"_", b"/"), validate=True)


def open_parquet(file: Traversable) -> pq.ParquetFile:
    """A parquet file, open for reading.

    Raises:
        InputError: naming the file.
    """
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file.open("rb"))
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow raises many types on damaged files
        raise InputError(f"{file}: not a whole parquet file: {_reason(error)}") from None


def parquet_columns(file: Traversable) -> tuple[list[str], list[str]]:
    """All columns of a parquet file, and those of them that hold images: bytes, or an object with `bytes`."""
    import pyarrow as pa

    schema = open_parquet(file).schema_arrow

    def holds(kind: pa.DataType) -> bool:
        inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        return bool(pa.types.is_binary(inner) or pa.types.is_large_binary(inner))

    return list(schema.names), [field.name for field in schema if holds(field.type)]


def parquet_batches(file: Traversable, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a parquet file, in batches of at most `BATCH_ROWS` rows; raises as `open_parquet`."""
    try:
        yield from open_parquet(file).iter_batches(batch_size=BATCH_ROWS, columns=list(columns))
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(f"{file}: damaged: {_reason(error)}") from None


def flat_bytes(column: Any) -> Any:
    """A column of bytes, whether they stand alone or in an object with `bytes`."""
    import pyarrow as pa

    joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return joined.field("bytes") if pa.types.is_struct(joined.type) else joined


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _group_of(file: pq.ParquetFile, row: int) -> tuple[int, int]:
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if row < count:
            return group, row
        row -= count
    raise IndexError(f"no row {row}")
