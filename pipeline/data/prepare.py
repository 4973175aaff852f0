"""The work of stage `download`: find or download a dataset, check it, and pack it into data/raw."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.data.acquire.cache import Store
from pipeline.data.acquire.hub import fetch_repository
from pipeline.data.acquire.layouts import ImageFiles
from pipeline.data.acquire.locate import find_annotations, find_images, listing_changed, missing_images
from pipeline.data.acquire.pack import pack_images
from pipeline.data.acquire.scan import Scan
from pipeline.data.acquire.sources import SOURCES
from pipeline.data.images import write_images
from pipeline.data.record import about_file, describe
from pipeline.data.rows import Annotations, Picture, count_captions, named
from pipeline.data.splits.annotations import read_annotations, scene_name
from pipeline.data.splits.format import SPLITS
from pipeline.errors import InputError
from pipeline.files import main_root, users_path, write_bytes, write_json
from pipeline.params import DataParams
from pipeline.paths import ANNOTATIONS, IMAGES


def prepare(params: DataParams, folder: Path) -> list[str]:
    """Fill `folder` with images.zip, annotations/ and source.json; returns lines for the user.

    Raises:
        InputError: naming the wrong file, image, key or row; before packing where possible.
    """
    return _prepare_scenes(params, folder) if params.name == "scenes" else _prepare_published(params, folder)


def _prepare_published(params: DataParams, folder: Path) -> list[str]:
    source = SOURCES[params.name]
    snapshot = None if params.repository is None else fetch_repository(params)
    root = snapshot
    if root is None and params.root is not None:
        root = _existing_folder(params.root)
    if root is None and not source.images:
        raise InputError(f"data.name = {params.name!r}: the images cannot be fetched from here: {source.by_hand}")
    store = Store(main_root() / ".downloads" / params.name, root, params.mirror, params.limits)
    layout, files, archives = find_annotations(params, store)
    if layout == "shards":
        images = ImageFiles(str)
        annotations = Scan({name: Path(str(file)) for name, file in files.items()}, params, images).annotations()
        files = {}  # not copied: they are read where they lie
    else:
        skip = params.on_bad_image == "skip"
        annotations = read_annotations(layout, files, source, params.columns, skip_empty=skip)
    if layout == "sidecar":
        files = {}  # as many as images: pictures.parquet has their texts
    wanted = [picture for picture in annotations.pictures if picture.split or not annotations.has_splits]
    if layout != "shards":
        images, image_archives = find_images(params, [picture.image for picture in wanted], store)
        archives += image_archives
    chosen = {picture.image: images.find(picture.image) for picture in wanted}
    found = {name: image for name, image in chosen.items() if image is not None}
    absent = sorted(chosen.keys() - found.keys())
    fail = params.on_bad_image == "fail"
    if absent and fail:
        raise InputError(missing_images(params.name, absent, images, root))
    absent += pack_images(found, folder / IMAGES.name, root, fail=fail)
    for name, file in files.items():
        write_bytes(folder / ANNOTATIONS.name / name, file.read_bytes())
    left_out = set(absent)
    present = [picture for picture in wanted if picture.image not in left_out]
    notes = [*annotations.notes, *_faults(annotations, images, len(found))]
    if absent:
        notes.append(f"skipped: {len(absent)} images that are missing or do not decode: {named(sorted(absent))}")
    shards = {image.location.path for image in found.values() if image.location is not None}
    origin: dict[str, Any] = {
        "archives": [
            {"file": kept.path.name, "address": kept.address, "bytes": kept.path.stat().st_size, "sha256": kept.sha256}
            for kept in archives
        ],
        "repository": snapshot and {"name": params.repository, "commit": snapshot.name},
        "shards": [about_file(Path(path), root) for path in sorted(shards)] if root else [],
        "columns": list(annotations.columns),
        "rows": annotations.rows,
    }
    lines = describe(folder, params.name, layout, present, origin, notes, absent)
    return lines + (listing_changed(images, store) if snapshot is None else [])


def _prepare_scenes(params: DataParams, folder: Path) -> list[str]:
    from pipeline.data.scenes.scenes import generate_splits

    scenes = generate_splits(params.scenes)

    def pictures() -> Iterator[tuple[str, bytes]]:
        for split in sorted(SPLITS):
            for index, scene in enumerate(scenes[split]):
                content = io.BytesIO()
                scene.image(params.scenes.size).save(content, "PNG")
                yield scene_name(split, index), content.getvalue()

    write_images(folder / IMAGES.name, pictures())
    rows = {split: [scene.to_json() for scene in scenes[split]] for split in SPLITS}
    write_json(folder / ANNOTATIONS.name / "scenes.json", rows)
    present = [
        Picture(scene_name(split, index), scene.captions, split)
        for split in SPLITS
        for index, scene in enumerate(scenes[split])
    ]
    return describe(folder, "scenes", "scenes", present, {"rows": len(present)}, [], [])


def _existing_folder(root: str) -> Path:
    folder = users_path(root, "data.root")
    if not folder.is_dir():
        raise InputError(f"data.root = {root!r}: there is no folder {folder}")
    return folder


def _faults(annotations: Annotations, images: ImageFiles, used: int) -> list[str]:
    """One line for each kind of unusable content in the published files."""
    notes = []
    unsplit = [picture for picture in annotations.pictures if annotations.has_splits and picture.split is None]
    ghosts = [picture for picture in unsplit if images.find(picture.image) is None]
    if ghosts:
        names = named([picture.image for picture in ghosts])
        notes.append(f"dropped: {count_captions(ghosts)} captions of images that are not there: {names}")
    if len(unsplit) > len(ghosts):
        notes.append(f"left out: {len(unsplit) - len(ghosts)} images that are in no split")
    unnamed = len(images) - used - (len(unsplit) - len(ghosts))
    if unnamed > 0:
        notes.append(f"left out: {unnamed} images that no annotation names")
    return notes
