"""The work of stage `download`: find or download a dataset, check it, and pack it into data/raw."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.acquire.cache import Kept, Store
from pipeline.data.acquire.layouts import ImageFiles
from pipeline.data.acquire.locate import find_annotations, find_images, listing_changed
from pipeline.data.acquire.pack import pack_images
from pipeline.data.acquire.sources import SOURCES
from pipeline.data.images import write_images
from pipeline.data.splits.annotations import Annotations, Picture, count_captions, read_annotations, scene_name
from pipeline.data.splits.format import SPLITS
from pipeline.errors import InputError
from pipeline.files import main_root, sha256, users_path, write_bytes, write_json
from pipeline.params import DataParams
from pipeline.paths import ANNOTATIONS, IMAGES, SOURCE

NAMED = 5  # names in one line; source.json has all


def prepare(params: DataParams, folder: Path) -> list[str]:
    """Fill `folder` with images.zip, annotations/ and source.json; returns lines for the user.

    Raises:
        InputError: naming the wrong file, image, key or row; before packing where possible.
    """
    return _prepare_scenes(params, folder) if params.name == "scenes" else _prepare_published(params, folder)


def _prepare_published(params: DataParams, folder: Path) -> list[str]:
    source = SOURCES[params.name]
    root = None if params.root is None else _existing_folder(params.root)
    if root is None and not source.images:
        raise InputError(f"data.name = {params.name!r}: the images cannot be fetched from here: {source.by_hand}")
    store = Store(main_root() / ".downloads" / params.name, root, params.mirror, params.limits)
    layout, files, archives = find_annotations(params.name, params.annotations, store)
    annotations = read_annotations(layout, files, source)
    wanted = [picture for picture in annotations.pictures if picture.split or not annotations.has_splits]
    images, image_archives = find_images(params.name, [picture.image for picture in wanted], store)
    chosen = {picture.image: images.find(picture.image) for picture in wanted}
    found = {name: image for name, image in chosen.items() if image is not None}
    absent = sorted(chosen.keys() - found.keys())
    fail = params.on_bad_image == "fail"
    if absent and fail:
        raise InputError(
            f"{params.name}: {len(absent)} images that the annotations name are missing: {_named(absent)}; "
            "add them, or set data.on_bad_image to skip"
        )
    absent += pack_images(found, folder / IMAGES.name, fail=fail)
    for name, file in files.items():
        write_bytes(folder / ANNOTATIONS.name / name, file.read_bytes())
    present = [picture for picture in wanted if picture.image not in set(absent)]
    notes = _faults(annotations, images, len(found))
    if absent:
        notes.append(f"skipped: {len(absent)} images that are missing or do not decode: {_named(sorted(absent))}")
    lines = _describe(
        folder, params.name, layout, present, annotations.has_splits, [*archives, *image_archives], notes, absent
    )
    return lines + listing_changed(images, store)


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
    return _describe(folder, "scenes", "scenes", present, True, [], [], [])


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
        names = _named([picture.image for picture in ghosts])
        notes.append(f"dropped: {count_captions(ghosts)} captions of images that are not there: {names}")
    if len(unsplit) > len(ghosts):
        notes.append(f"left out: {len(unsplit) - len(ghosts)} images that are in no split")
    unnamed = len(images) - used - (len(unsplit) - len(ghosts))
    if unnamed > 0:
        notes.append(f"left out: {unnamed} images that no annotation names")
    return notes


def _describe(
    folder: Path,
    name: str,
    layout: str,
    pictures: Sequence[Picture],
    has_splits: bool,
    archives: Sequence[Kept],
    notes: list[str],
    skipped: list[str],
) -> list[str]:
    """Write source.json, which does not depend on this machine, and return its content as lines."""
    if not pictures:
        raise InputError(f"{name}: no image is left: all are missing or do not decode")
    source = SOURCES[name]
    parts = {split: [picture for picture in pictures if picture.split == split] for split in SPLITS}
    counts: dict[str, Any] = {
        split: {"images": len(members), "captions": count_captions(members)} for split, members in parts.items()
    }
    if not has_splits:
        counts = {"not split yet": {"images": len(pictures), "captions": count_captions(pictures)}}
    files = sorted((folder / ANNOTATIONS.name).iterdir())
    description = {
        "name": name,
        "title": source.title,
        "layout": layout,
        "licence": source.licence,
        "citation": source.citation,
        "archives": [
            {"file": kept.path.name, "address": kept.address, "bytes": kept.path.stat().st_size, "sha256": kept.sha256}
            for kept in archives
        ],
        "annotations": [{"file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)} for file in files],
        "counts": counts,
        "notes": notes,
        "skipped": sorted(skipped),
    }
    write_json(folder / SOURCE.name, description)
    shares = ", ".join(f"{split} {count['images']}" for split, count in counts.items())
    return [f"{name}: {len(pictures)} images with {count_captions(pictures)} captions ({shares})", *notes]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
