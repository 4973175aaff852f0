"""Find a dataset's files: in the user's folder, else in the store, which downloads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data.acquire.cache import Kept, Store
from pipeline.data.acquire.layouts import Files, ImageFiles, files_in, files_in_archive, match_layout
from pipeline.data.acquire.sources import SOURCES, Item, Layout
from pipeline.errors import InputError
from pipeline.files import digest_of, read_record, write_json


def find_annotations(name: str, wanted: str, store: Store) -> tuple[str, Files, list[Kept]]:
    """The layout to read, its files, and the published archives or files that hold them.

    `wanted` is `data.annotations`. The user's folder is searched first; what it lacks is downloaded.

    Raises:
        InputError: for a layout that this dataset does not have; for several layouts, or part of one, in the user's
            folder; or for none at all.
    """
    source = SOURCES[name]
    if wanted not in ("auto", *source.layouts):
        allowed = ", ".join(("auto", *source.layouts))
        raise InputError(f"data.annotations = {wanted!r}: data.name = {name!r} can be read with {allowed}")
    layouts = source.layouts if wanted == "auto" else {wanted: source.layouts[wanted]}
    if store.root is not None:
        own = _own_layouts(layouts, [store.root / folder for folder in source.annotation_folders], store)
        if len(own) > 1:
            raise InputError(
                f"data.root = {store.root}: holds annotations of {len(own)} layouts: {', '.join(own)}; "
                "set data.annotations to the one to read"
            )
        for layout, files in own.items():
            if files is not None:
                return layout, files, []
            return layout, *_fetched(layouts[layout], store)
    for layout, published in layouts.items():
        if published.items:
            return layout, *_fetched(published, store)
    raise InputError(f"data.root = {store.root}: no annotations of {', '.join(layouts)} there: {source.by_hand}")


def _own_layouts(layouts: Mapping[str, Layout], folders: Sequence[Path], store: Store) -> dict[str, Files | None]:
    """The layouts in the user's folder: their files, or None if they are in a published archive."""
    loose = files_in(folders)
    own: dict[str, Files | None] = {}
    partial = []
    for name, layout in layouts.items():
        files = match_layout(layout, loose)
        if not isinstance(files, str):
            own[name] = files
        elif store.has(layout.items):
            own[name] = None
        elif files:
            partial.append(f"{name}: {files}")
    if partial and not own:
        raise InputError(f"data.root = {store.root}: incomplete annotations: {'; '.join(partial)}")
    return own


def _fetched(layout: Layout, store: Store) -> tuple[Files, list[Kept]]:
    kept = [store.get(item) for item in layout.items]
    found = files_in([])
    for file in kept:
        if file.path.suffix == ".zip":
            for base, places in files_in_archive(file.path, store.limits).items():
                found.setdefault(base, []).extend(places)
        else:
            found.setdefault(file.path.name, []).append(file.path)
    files = match_layout(layout, found)
    if isinstance(files, str):
        raise InputError(
            f"{', '.join(str(file.path) for file in kept)}: {files or 'none of its annotation files inside'}"
        )
    return files, kept


def find_images(name: str, wanted: Sequence[str], store: Store) -> tuple[ImageFiles, list[Kept]]:
    """All available images, and the published archives among their sources.

    A published archive is used (downloaded if the user has none) if the folder holds none of its images.

    Raises:
        InputError: when there is no image at all, naming the searched folders and what to put there.
    """
    source = SOURCES[name]
    images = ImageFiles(source.identity)
    if store.root is not None:
        for folder in source.image_folders:
            images.add_folder(store.root / folder, store.root)
            if len(images):
                break
    kept = []
    for item in source.images:
        held = [image for image in wanted if _holds(item, image)]
        if held and all(images.find(image) is None for image in held):
            kept.append(store.get(item))
            images.add_archive(kept[-1].path, store.limits)
    if not len(images):
        folders = ", ".join(str(store.root / folder) for folder in source.image_folders) if store.root else "data.root"
        raise InputError(f"{name}: no images folder: no image in {folders}: {source.by_hand}")
    return images, kept


def _holds(item: Item, image: str) -> bool:
    return item.folder is None or "/" not in image or image.startswith(f"{item.folder}/")


def listing_changed(images: ImageFiles, store: Store) -> list[str]:
    """Record the names and sizes in the user's folder; returns a line if they have changed since the last time.

    DVC does not track that folder, so changes are detected here when it is packed again.
    """
    if store.root is None:
        return []
    record = store.folder / f"listing.{digest_of(str(store.root))[:8]}.json"
    listing = images.listing()
    now = {"files": len(listing), "bytes": sum(size for _, size in listing), "sha256": digest_of(listing)}
    try:
        before = read_record(record)
        told = f"{before['files']} images with {before['bytes']} bytes then"
    except (InputError, KeyError):
        before, told = now, ""  # the first time, or a damaged record: nothing to compare with
    write_json(record, now)
    if before == now:
        return []
    return [f"data.root has changed since it was last packed: {told}, {now['files']} with {now['bytes']} now"]
