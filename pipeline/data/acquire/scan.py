"""Read shards once, from start to end: every image is decoded and digested, and its captions become a row."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pipeline.data.acquire.layouts import ImageFile, ImageFiles
from pipeline.data.archives import checked_name
from pipeline.data.columns import cell_text, choose_columns, refusal, texts
from pipeline.data.images import check_image, is_image
from pipeline.data.rows import Annotations, Row, gather, split_name, splits_in_paths
from pipeline.data.shards import (
    Location,
    ShardReader,
    content_digest,
    flat_bytes,
    from_base64,
    parquet_batches,
    parquet_columns,
)
from pipeline.data.text import read_lines
from pipeline.errors import InputError
from pipeline.files import parse_json
from pipeline.params import DataParams
from pipeline.progress import progress

BATCH = 64  # samples decoded in parallel, and in memory
TEXT_BYTES = 1 << 20  # of one caption file in a tar


class Sample(NamedTuple):
    """One image as the shard of this path holds it; `name` is its own name, "" where it has none."""

    shard: str
    name: str
    content: bytes
    captions: list[str]
    split: str | None
    location: Location
    place: str


@dataclass
class Scan:
    """Shards by path relative to their folder, and what was found in them; `rows` fills `images`."""

    shards: Mapping[str, Path]
    params: DataParams
    images: ImageFiles
    chosen: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.splits = splits_in_paths(self.shards)

    def annotations(self) -> Annotations:
        """What `rows` yields, put together; the notes count samples without an image or a caption."""
        found = gather(self.rows())
        notes = (f"left out: {count} {what}; the first is {first}" for what, (count, first) in self.left_out.items())
        return replace(found, notes=(*notes, *found.notes), columns=tuple(self.chosen))

    def rows(self) -> Iterator[Row]:
        """A row for each sample with an image and a caption.

        Samples of one name and one content are one picture; so are those without a name, within a split. A name in a
        tar belongs to that tar; where another picture has a name already, the place in the shard is put before it.

        Raises:
            InputError: naming the shard, if it is damaged, compressed, above `data.limits`, or has no known columns.
        """
        names: dict[tuple[str | None, int], str] = {}
        taken: set[str] = set()
        reader = ShardReader()
        for sample, digest, broken in self._checked():
            base, location = PurePosixPath(sample.name).name, sample.location
            in_tar = sample.shard.lower().endswith(".tar")
            key = (f"{sample.shard if in_tar else ''}/{base}" if base else sample.split, digest)
            if (name := names.get(key)) is None:
                shard = sample.shard.rpartition(".")[0]
                name = f"{shard}/{base}" if base and in_tar else base
                if not base or name in taken:
                    name = f"{shard}/{location.start:09d}{base and '-'}{base}"
                names[key] = name
                taken.add(name)
                read = partial(reader.read, location)
                self.images.add(ImageFile(sample.place, location.size, read, location, digest, broken), name)
            captions = tuple(text for text in sample.captions if text.strip())
            if captions:
                yield Row(name, captions, sample.split, sample.place)
            else:
                self._leave_out("samples without a caption", sample.place)

    def _leave_out(self, what: str, place: str) -> None:
        count, first = self.left_out.get(what, (0, place))
        self.left_out[what] = (count + 1, first)

    def _checked(self) -> Iterator[tuple[Sample, int, str | None]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow and hashlib release the GIL
            samples = self._samples()
            while batch := list(islice(samples, BATCH)):
                yield from zip(
                    batch,
                    pool.map(lambda sample: content_digest(sample.content), batch),
                    pool.map(_broken, batch),
                    strict=True,
                )

    def _samples(self) -> Iterator[Sample]:
        for name, path in progress(self.shards.items(), label="reading shards", total=len(self.shards)):
            kind = name.lower()
            read = self._tar if kind.endswith(".tar") else self._parquet if kind.endswith(".parquet") else self._lines
            for sample in read(name, path):
                self._check_size(sample.place, len(sample.content))
                if sample.content:
                    yield sample
                else:
                    self._leave_out("samples without an image", sample.place)

    def _parquet(self, name: str, path: Path) -> Iterator[Sample]:
        import pyarrow as pa

        names, pixels = parquet_columns(path)
        columns = choose_columns(names, self.params.columns, pixels)
        if columns.pixels is None:
            raise InputError(refusal(str(path), names, self.params.columns))
        self.chosen[str(columns)] = None
        needed = [columns.pixels, columns.image, *columns.captions, columns.split]
        row = 0
        for batch in parquet_batches(path, [column for column in needed if column]):
            pixel = batch.column(columns.pixels)
            content = flat_bytes(pixel).to_pylist()
            others = batch.drop_columns([columns.pixels]).to_pylist()
            fields = [inner.name for inner in pixel.type] if pa.types.is_struct(pixel.type) else []
            paths = pixel.field("path").to_pylist() if "path" in fields else [None] * len(content)
            column = f"{columns.pixels}.bytes" if fields else columns.pixels
            for data, cells, own in zip(content, others, paths, strict=True):
                place = f"{path}: row {row}"
                location = Location(str(path), row, len(data or b""), column)
                captions = [text for caption in columns.captions for text in texts(cells[caption])]
                yield Sample(
                    name,
                    cell_text(cells[columns.image]) if columns.image else own or "",
                    data or b"",
                    captions,
                    split_name(cell_text(cells[columns.split]), place) if columns.split else self.splits[name],
                    location,
                    place,
                )
                row += 1

    def _tar(self, name: str, path: Path) -> Iterator[Sample]:
        split = self.splits[name]
        try:
            with tarfile.open(path, "r:") as archive:
                for key, group in groupby(_files_in(archive), _key):  # as webdataset does
                    members = list(group)
                    image = next((member for member in members if is_image(member.name)), None)
                    location = Location(str(path), image.offset_data if image else 0, image.size if image else 0)
                    for member in members:
                        self._check_size(f"{path}: member {member.name!r}", member.size)
                    content = _content(archive, image)
                    captions = _tar_captions(archive, members, f"{path}: {key}")
                    own = _named(archive, members, f"{path}: {key}") or (image.name if image else key)
                    yield Sample(name, own, content, captions, split, location, f"{path}: {key}")
        except (tarfile.TarError, OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a whole tar archive (cut off or compressed?): {error}; allowed are uncompressed ones, "
                "which are read where they lie"
            ) from None

    def _check_size(self, place: str, size: int) -> None:
        most = self.params.limits.member_mb
        if size > most << 20:
            raise InputError(f"{place}: {size >> 20} MiB, at most {most} are allowed; raise data.limits.member_mb")

    def _lines(self, name: str, path: Path) -> Iterator[Sample]:
        """Chinese-CLIP's `<split>_imgs.tsv`, an id and a base64 text a line, with `<split>_texts.jsonl` beside it."""
        captions: dict[str, list[str]] = {}
        beside = path.with_name(path.name[: -len("_imgs.tsv")] + "_texts.jsonl")
        for number, line in enumerate(read_lines(beside) if beside.is_file() else [], 1):
            place = f"{beside}: line {number}"
            row = parse_json(line, place)
            cells = row if isinstance(row, dict) else {}
            if not isinstance(cells.get("text"), str) or not isinstance(cells.get("image_ids"), list):
                raise InputError(f"{place}: expected an object with a text 'text' and a list 'image_ids'")
            for identity in row["image_ids"]:
                captions.setdefault(str(identity), []).append(row["text"])
        start = 0
        with path.open("rb") as handle:
            for number, content_line in enumerate(handle, 1):
                identity, tab, content = content_line.rstrip(b"\r\n").partition(b"\t")
                place = f"{path}: line {number}"
                try:
                    image = identity.decode()
                    data = from_base64(content)
                except ValueError as error:
                    raise InputError(f"{place}: expected an id, a tab and a base64 text: {error}") from None
                if not tab or not image:
                    raise InputError(f"{place}: expected an id, a tab and a base64 text")
                location = Location(str(path), start + len(identity) + 1, len(content))
                texts_of = captions.get(image, [])
                yield Sample(name, f"{image}.jpg", data, texts_of, self.splits[name], location, place)
                start += len(content_line)


def _files_in(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all that it has seen
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield member


def _key(member: tarfile.TarInfo) -> str:
    """The name up to the first dot of its last part: members that follow each other under it are one sample."""
    folder, slash, base = member.name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes:
    handle = archive.extractfile(member) if member is not None else None
    return handle.read() if handle is not None else b""


def _tar_captions(archive: tarfile.TarFile, members: Iterable[tarfile.TarInfo], place: str) -> list[str]:
    """The lines of `.txt` or `.caption`, else the captions in `.json`, as img2dataset writes them."""
    by_kind = {member.name.rpartition(".")[2].lower(): member for member in members}
    for kind in ("txt", "caption", "json"):
        if kind not in by_kind:
            continue
        try:
            text = _content(archive, by_kind[kind])[:TEXT_BYTES].decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{place}.{kind}: no UTF-8 text: {error}") from None
        if kind != "json":
            return [caption for line in text.splitlines() for caption in texts(line)]
        cells = _cells(text, place)
        return next((texts(cells[name]) for name in ("captions", "caption", "text") if cells.get(name)), [])
    return []


def _named(archive: tarfile.TarFile, members: Iterable[tarfile.TarInfo], place: str) -> str:
    """The picture's name under `image` in `.json`, as `commands.clean` writes it: several samples may be of one."""
    for member in members:
        if member.name.lower().endswith(".json"):
            with suppress(InputError):  # any JSON may be there, which nobody needs
                text = _content(archive, member)[:TEXT_BYTES].decode(errors="replace")
                name = _cells(text, place).get("image")
                return checked_name(name, place) if isinstance(name, str) and is_image(name) else ""
    return ""


def _cells(text: str, place: str) -> dict[str, Any]:
    row = parse_json(text, f"{place}.json")
    return row if isinstance(row, dict) else {}


def _broken(sample: Sample) -> str | None:
    try:
        check_image(sample.content, sample.place)
    except InputError as error:
        return str(error)
    return None
