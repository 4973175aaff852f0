"""Find a dataset's files: in the user's folder, else in the store, which downloads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from pipeline.data.acquire.cache import Kept, Store
from pipeline.data.acquire.layouts import (
    Files,
    ImageFiles,
    files_below,
    files_in,
    files_in_archive,
    match_layout,
    matches,
)
from pipeline.data.acquire.scan import Scan
from pipeline.data.acquire.sources import SOURCES, Item, Layout, Source
from pipeline.data.images import is_image
from pipeline.data.rows import named, split_in_path
from pipeline.data.shards import parquet_columns
from pipeline.data.tables import JSON, SUFFIXES, open_table
from pipeline.errors import InputError
from pipeline.files import digest_of, read_record, sha256, write_json
from pipeline.params import DataParams

SHOWN = 3
BY_CONTENT = ("table", "shards", "sidecar")  # not by their names


def find_annotations(params: DataParams, store: Store) -> tuple[str, Files, list[Kept]]:
    """The layout to read, its files, and the published archives or files that hold them.

    The user's folder is searched first; what it lacks is downloaded.

    Raises:
        InputError: for a layout that this dataset does not have; for several layouts, or part of one, in the user's
            folder; for a table without an image or a caption column; or for none at all.
    """
    source = SOURCES[params.name]
    if params.annotations not in ("auto", *source.layouts):
        allowed = ", ".join(("auto", *source.layouts))
        raise InputError(
            f"data.annotations = {params.annotations!r}: data.name = {params.name!r} can be read with {allowed}"
        )
    layouts = dict(source.layouts)
    if params.annotations != "auto":
        layouts = {params.annotations: layouts[params.annotations]}
    elif any(layout.items for layout in layouts.values()):
        layouts.pop("table", None)  # a copy has no published split
    refused: list[str] = []
    if store.root is not None:
        own = _own_layouts(layouts, source, store, params, refused)
        if len(own) > 1:
            raise InputError(
                f"data.root = {store.root}: holds annotations of {len(own)} layouts: {', '.join(own)}; "
                f"set data.annotations to the one to read{', or to table' if 'table' in layouts else ''}"
            )
        for layout, files in own.items():
            if files is not None:
                return layout, files, []
            return layout, *_fetched(layouts[layout], store)
    for layout, published in layouts.items():
        if published.items:
            return layout, *_fetched(published, store)
    searched = ", ".join(source.annotation_folders)
    patterns = "; ".join(f"{name}: {', '.join(layout.files)}" for name, layout in layouts.items())
    why = f". {' | '.join(list(dict.fromkeys(refused))[:SHOWN])}" if refused else ""
    raise InputError(
        f"data.root = {store.root}: no annotations of {', '.join(layouts)} there, in its folders {searched} "
        f"({patterns.replace('|', ' or ')}){why or f': {source.by_hand}'}"
    )


def _own_layouts(
    layouts: Mapping[str, Layout], source: Source, store: Store, params: DataParams, refused: list[str]
) -> dict[str, Files | None]:
    """The layouts in the user's folder: their files, or None if they are in a published archive."""
    assert store.root is not None
    places = files_named(store.root, params)
    loose = files_in(store.root / folder for folder in source.annotation_folders)
    if params.files is not None:
        chosen = set(places.values())
        loose = {name: [file for file in files if file in chosen] for name, files in loose.items()}
    own: dict[str, Files | None] = {}
    partial = []
    for name, layout in layouts.items():
        if name in BY_CONTENT:
            continue
        files = match_layout(layout, loose)
        if not isinstance(files, str):
            own[name] = files
        elif store.has(layout.items):
            own[name] = None
        elif files:
            partial.append(f"{name}: {files}")
    if layouts.keys() & set(BY_CONTENT):
        shards = find_shards(places, refused)
        if "shards" in layouts and shards:
            own["shards"] = shards
        beside = find_sidecars(store.root, places) if "sidecar" in layouts else {}
        texts = set(beside.values())  # "photo, dog, text" would be the columns of a table
        others = {name: path for name, path in places.items() if path not in texts}
        if "table" in layouts and (tables := _tables(others, source, params, SUFFIXES, bool(shards), refused)):
            own["table"] = tables
        # any folder may hold other .txt and .json files: they count where there is nothing else
        if beside and not own:
            own["sidecar"] = beside
        alone = "table" in layouts and not own and not partial
        if alone and (tables := _tables(places, source, params, (JSON,), False, refused)):
            own["table"] = tables
    if partial and not own:
        raise InputError(f"data.root = {store.root}: incomplete annotations: {'; '.join(partial)}")
    return own


def files_named(root: Path, params: DataParams) -> dict[str, Path]:
    """The files below the user's folder that are no images, by path; only those that `data.files` names.

    Raises:
        InputError: when `data.files` matches no path below the folder and no file's name.
    """
    names = {path.relative_to(root).as_posix(): path for path in files_below(root)}
    if (pattern := params.files) is not None:
        names = {name: path for name, path in names.items() if matches(name, pattern) or matches(path.name, pattern)}
        if not names:
            raise InputError(f"data.files = {pattern!r}: matches no file below {root}")
    return {name: path for name, path in names.items() if not is_image(name)}


def find_shards(places: Mapping[str, Path], refused: list[str]) -> dict[str, Path]:
    """Files that hold images and captions, by path: tar, parquet with images, Chinese-CLIP's base64 lines.

    Raises:
        InputError: for unreadable parquet beside such with images: it may be cut off; `refused` gets it if it is alone.
    """
    found, broken = {}, []
    for name, path in places.items():
        kind = name.lower()
        try:
            if kind.endswith((".tar", "_imgs.tsv")) or (kind.endswith(".parquet") and parquet_columns(path)[1]):
                found[name] = path
        except InputError as error:
            broken.append(str(error))
    if broken and any(name.lower().endswith(".parquet") for name in found):
        raise InputError(broken[0])
    refused += broken
    return found


def find_sidecars(root: Path, places: Mapping[str, Path]) -> dict[str, Path]:
    """The .txt file beside each image of the same name, by the image's path."""
    texts = {path.with_suffix(""): path for name, path in places.items() if name.lower().endswith(".txt")}
    images = [path for path in files_below(root) if is_image(path.name) and path.with_suffix("") in texts]
    return {path.relative_to(root).as_posix(): texts[path.with_suffix("")] for path in images}


def _tables(
    places: Mapping[str, Path],
    source: Source,
    params: DataParams,
    kinds: tuple[str, ...],
    has_shards: bool,
    refused: list[str],
) -> dict[str, Path]:
    """The tables of captions, by path: directly in the annotation folders, else anywhere; `refused` gets the others.

    `kinds`: their suffixes.

    Several are read together where each is named `metadata`, each is parquet, or each path states its split; of equal
    ones the first is read.

    Raises:
        InputError: naming two tables that do not belong together, or an unreadable file among tables of its kind: it
            may be one that was cut off.
    """
    left_out = (".parquet", "_imgs.tsv", "_texts.jsonl") if has_shards else ()  # what lies beside shards describes them
    candidates = [name for name in places if name.lower().endswith(kinds) and not name.lower().endswith(left_out)]
    near = [name for name in candidates if (name.rpartition("/")[0] or ".") in source.annotation_folders]
    far = [name for name in candidates if name not in set(near) and not name.lower().endswith(".txt")]
    for names in (near, far):
        found = []
        broken: dict[str, str] = {}
        for name in names:
            try:
                table = open_table(places[name], params.columns)
            except InputError as error:
                table = broken[name] = str(error)
            if isinstance(table, str):
                refused.append(table)
            else:
                found.append(name)
        suffixes = {name.rpartition(".")[2] for name in found}
        if cut_off := [why for name, why in broken.items() if name.rpartition(".")[2] in suffixes]:
            raise InputError(cut_off[0])
        if len(found) > 1 and len({sha256(places[name]) for name in found}) == 1:
            found = found[:1]
        if len(found) > 1 and not (
            all(name.rpartition("/")[2].lower().startswith("metadata.") for name in found)
            or all(name.lower().endswith(".parquet") for name in found)
            or all(map(split_in_path, found))
        ):
            one, other = (places[name] for name in found[:2])
            raise InputError(f"annotations: is it {one} or {other}? Name one in data.files, or leave one of them")
        if found:
            return {name: places[name] for name in found}
    return {}


def _fetched(layout: Layout, store: Store) -> tuple[Files, list[Kept]]:
    kept = [store.get(item) for item in layout.items]
    found: dict[str, list[Traversable]] = {}
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


def find_images(params: DataParams, wanted: Sequence[str], store: Store) -> tuple[ImageFiles, list[Kept]]:
    """All available images, and the published archives among their sources.

    A published archive is used (downloaded if the user has none) if the folder holds none of its images. Shards and
    ZIPs of other names in the folder are read if images are still missing.

    Raises:
        InputError: when there is no image at all, naming the searched folders and what to put there; or when the
            folder holds images and none of those that are wanted, which a download would not correct.
    """
    source = SOURCES[params.name]
    images = ImageFiles(source.identity)
    if store.root is not None:
        for folder in source.image_folders:
            images.add_folder(store.root / folder, store.root)
            if len(images) and all(map(images.exact, wanted)):  # a near name is looked for when all folders are known
                break
    misplaced = len(images) > 0 and not any(map(images.find, wanted))
    kept: list[Kept] = []
    for item in source.images:
        held = [image for image in wanted if _holds(item, image)]
        if held and not any(map(images.find, held)):
            if misplaced and not store.has([item]):
                raise InputError(
                    f"data.root = {store.root}: holds {len(images)} images, such as {_examples(images)}, but none that "
                    f"the annotations name, such as {held[0]}; nothing was fetched. Correct data.root, or leave it out "
                    f"to have {', '.join(item.name for item in source.images)} fetched"
                )
            kept.append(store.get(item))
            images.add_archive(kept[-1].path, store.limits)
    if store.root is not None and not all(map(images.find, wanted)):
        for _ in Scan(find_shards(files_named(store.root, params), []), params, images).rows():
            pass
    if store.root is not None and not all(map(images.find, wanted)):
        used = {file.path for file in kept}
        for path in files_below(store.root):
            if path.suffix.lower() == ".zip" and path not in used:
                images.add_archive(path, store.limits)
    if not len(images):
        folders = ", ".join(str(store.root / folder) for folder in source.image_folders) if store.root else "data.root"
        raise InputError(f"{params.name}: no images folder: no image in {folders}: {source.by_hand}")
    return images, kept


def missing_images(name: str, absent: Sequence[str], images: ImageFiles, root: Path | None) -> str:
    """What is said of images that are not there: which, and what lies in the folder instead."""
    there = f"; {root} holds {len(images)} images, such as {_examples(images)}" if root is not None else ""
    return (
        f"{name}: {len(absent)} images that the annotations name are missing: {named(absent)}{there}; "
        "add them, or set data.on_bad_image to skip"
    )


def _examples(images: ImageFiles) -> str:
    return ", ".join(image.place for image in images.images[:SHOWN])


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
