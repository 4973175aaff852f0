"""What data/raw says of itself: pictures.parquet, which stage split reads, and source.json, which people read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.data.acquire.sources import SOURCES
from pipeline.data.images import ImageArchive
from pipeline.data.rows import Picture, count_captions, write_pictures
from pipeline.data.splits.format import SPLITS
from pipeline.errors import InputError
from pipeline.files import sha256, write_json
from pipeline.paths import ANNOTATIONS, IMAGES, PICTURES, SOURCE


def about_file(path: Path, folder: Path) -> dict[str, Any]:
    """A file's path relative to `folder`, its size and its SHA-256."""
    return {"file": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}


def describe(
    folder: Path,
    name: str,
    layout: str,
    pictures: Sequence[Picture],
    origin: dict[str, Any],
    notes: list[str],
    skipped: list[str],
) -> list[str]:
    """Write pictures.parquet and source.json, which do not depend on this machine; returns what they hold as lines.

    `origin` says where the data came from, for source.json.

    Raises:
        InputError: where no picture is left.
    """
    if not pictures:
        why = "; ".join(notes) or "all are missing or do not decode"
        raise InputError(f"{name}: no image with a caption is left: {why}")
    source = SOURCES[name]
    files = sorted(path for path in (folder / ANNOTATIONS.name).rglob("*") if path.is_file())
    annotations = [about_file(path, folder / ANNOTATIONS.name) for path in files]
    (folder / ANNOTATIONS.name).mkdir(exist_ok=True)
    write_pictures(folder / ANNOTATIONS.name / PICTURES.name, pictures)
    parts: dict[str, list[Picture]] = {}
    for picture in pictures:
        parts.setdefault(picture.split or "not split yet", []).append(picture)
    order = [split for split in (*SPLITS, "not split yet") if split in parts]
    counts = {split: {"images": len(parts[split]), "captions": count_captions(parts[split])} for split in order}
    notes = [*notes, *_twins(ImageArchive(folder / IMAGES.name), pictures)]
    description = {
        "name": name,
        "title": source.title,
        "layout": layout,
        "licence": source.licence,
        "citation": source.citation,
        **origin,
        "annotations": annotations,
        "counts": counts,
        "notes": notes,
        "skipped": sorted(skipped),
    }
    write_json(folder / SOURCE.name, description)
    shares = ", ".join(f"{split} {count['images']}" for split, count in counts.items())
    total = f"{len(pictures)} images with {count_captions(pictures)} captions ({shares}), from {origin['rows']} rows"
    return [*(f"columns: {columns}" for columns in origin.get("columns", ())), f"{name}: {total}", *notes]


def _twins(archive: ImageArchive, pictures: Sequence[Picture]) -> list[str]:
    """Lines about pictures that are there under several names, byte for byte the same: across splits, and in one."""
    split = {picture.image: picture.split for picture in pictures}
    alike: dict[tuple[int, int], list[str]] = {}
    for name, size, checksum in archive.contents:
        alike.setdefault((size, checksum), []).append(name)
    lines = []
    for across in (True, False):
        twins = [names for names in alike.values() if len(names) > 1 and (len({*map(split.get, names)}) > 1) == across]
        if twins:
            first = " and ".join(f"{name} ({split.get(name) or 'not split yet'})" for name in twins[0][:2])
            where = "in several splits" if across else "in one split"
            lines.append(f"kept: {len(twins)} pictures that are {where} under several names, such as {first}")
    return lines
