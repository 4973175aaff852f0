"""Tables of captions: comma, semicolon, bar or tab between fields, JSON (lines), or parquet without images."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from pipeline.data.columns import ANY, Columns, cell_text, choose_columns, refusal, texts
from pipeline.data.images import is_image
from pipeline.data.rows import Row, split_name
from pipeline.data.shards import parquet_batches, parquet_columns
from pipeline.data.text import read_json, read_lines, read_text
from pipeline.errors import InputError
from pipeline.files import parse_json
from pipeline.params import ColumnsParams

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
JSON = ".json"
QUOTED = (",", ";")  # in a table with tabs or bars, a quotation mark belongs to the caption; but see `_as_written`
HEADER_BYTES = 1 << 16
Records = Iterator[tuple[str, dict[str, Any]]]  # a row's place, and its cells by column


@dataclass(frozen=True)
class Table:
    """A table whose columns are known; `delimiter` separates fields, "" where the format has none."""

    file: Traversable
    columns: Columns
    delimiter: str


def open_table(file: Traversable, wanted: ColumnsParams = ANY) -> Table | str:
    """The table in a file; a sentence about its columns where they are not those of a table of captions.

    Raises:
        InputError: for a file that cannot be read.
    """
    kind, place = file.name.lower().rpartition(".")[2], str(file)
    if kind in ("parquet", "json", "jsonl"):
        pixels: list[str] = []
        if kind == "parquet":
            names, pixels = parquet_columns(file)
        else:
            names = list(next((row for _, row in _json_rows(file)), {}))
            if not names:
                return f"{place}: no list of objects; COCO's and Karpathy's files are known by their names"
        columns = choose_columns(names, wanted)
        return Table(file, columns, "") if columns.complete and not pixels else refusal(place, names, wanted)
    with file.open("rb") as handle:
        line = handle.readline(HEADER_BYTES).decode("utf-8-sig", errors="replace").rstrip("\r\n")
    headers = {mark: _header(line, mark) for mark in ("\t", "|", ";", ",")}
    for mark, names in headers.items():
        if (columns := choose_columns(names, wanted)).complete:
            return Table(file, columns, mark)
    return refusal(place, max(headers.values(), key=len), wanted)


def table_rows(table: Table, folder: str = "", stated: str | None = None) -> Iterator[Row]:
    """The rows of a table; `folder` is put before each image's name.

    Without a column for it, the split is `stated`, by the file's path.

    Raises:
        InputError: naming the file and the line, for another number of fields, a missing image or caption, an unknown
            split, or a quoted field that holds further rows.
    """
    columns, place = table.columns, ""
    assert columns.image is not None
    for place, cells in _records(table):
        try:
            image = cell_text(cells[columns.image])
            values = [cells[name] for name in columns.captions]
            split = stated if columns.split is None else split_name(cell_text(cells[columns.split]), place)
        except KeyError as error:
            raise InputError(f"{place}: no {error}; found the keys {', '.join(cells) or 'none'}") from None
        if not image:
            raise InputError(f"{place}: no image")
        captions = [text for value in values for text in texts(value) if text.strip() or len(values) == 1]
        yield Row(folder + image, tuple(captions), split, place)
    if not place:
        raise InputError(f"{table.file}: no row; one row a caption is expected")


def _records(table: Table) -> Records:
    if table.delimiter:
        names = _header(read_lines(table.file)[0], table.delimiter)
        for number, fields in (_quoted if table.delimiter in QUOTED else _unquoted)(table):
            place = f"{table.file}: line {number}"
            if len(fields) != len(names):
                raise InputError(f"{place}: expected {len(names)} fields: {', '.join(names)}; found {len(fields)}")
            yield place, dict(zip(names, fields, strict=True))
    elif table.file.name.lower().endswith(".parquet"):
        needed = [table.columns.image, *table.columns.captions, table.columns.split]
        batches = parquet_batches(table.file, [name for name in needed if name])
        for number, cells in enumerate(cells for batch in batches for cells in batch.to_pylist()):
            yield f"{table.file}: row {number}", cells
    else:
        yield from _json_rows(table.file)


def _json_rows(file: Traversable) -> Records:
    """A list of objects, an object a line, or an object with the captions of each image; none for other JSON."""
    lines = [(number, line) for number, line in enumerate(read_lines(file), 1) if line]
    if file.name.lower().endswith(".jsonl") or (len(lines) > 1 and lines[0][1].endswith("}")):
        for number, line in lines:
            place = f"{file}: line {number}"
            row = parse_json(line, place)
            if not isinstance(row, dict):
                raise InputError(f"{place}: expected an object, found {type(row).__name__}")
            yield place, row
        return
    content = read_json(file)
    if isinstance(content, dict) and all(map(is_image, content)):
        content = [{"image": name, "captions": value} for name, value in content.items()]
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        yield from ((f"{file}: row {number}", row) for number, row in enumerate(content))


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return []


def _unquoted(table: Table) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(table.file).split("\n")[1:], 2):
        fields = line.split(table.delimiter)
        # one line of Kaggle's results.csv lacks the bar between a caption's number and the caption
        if table.delimiter == "|" and len(fields) == 2 and (joined := re.fullmatch(r"\s*(\d+)\s+(\S.*)", fields[1])):
            fields = [fields[0], *joined.groups()]
        if line.strip():
            yield number, list(map(_as_written, fields))


def _as_written(field: str) -> str:
    """The text of a field that pandas quoted because of the quotation marks in it, which are then all doubled."""
    inner = field.strip()[1:-1]
    quoted = field.strip() == f'"{inner}"' and '"' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else field


def _quoted(table: Table) -> Iterator[tuple[int, list[str]]]:
    text = io.StringIO(read_text(table.file), newline="")
    reader = csv.reader(text, delimiter=table.delimiter, strict=True, skipinitialspace=True)
    line = 1
    try:
        next(reader)
        for fields in reader:
            begin, line = line + 1, reader.line_num
            if line > begin and any(_swallows(field, table.delimiter) for field in fields):
                raise InputError(
                    f"{table.file}: line {begin}: a quoted field reaches to line {line} and holds the rows between; a "
                    'quotation mark that belongs to a caption is doubled ("") in a quoted field'
                )
            if fields:
                yield begin, fields
    except csv.Error as error:
        raise InputError(
            f"{table.file}: line {line + 1}: not readable as a table, here or up to line {reader.line_num}: {error}"
        ) from None


def _swallows(field: str, delimiter: str) -> bool:
    """Whether a field of several lines has an image's name among the parts of a later line."""
    parts: Sequence[str] = [part for line in field.split("\n")[1:] for part in line.split(delimiter)]
    return any(is_image(part.strip().strip('"')) for part in parts)
