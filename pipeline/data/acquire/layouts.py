"""The content of a user's folder and of downloaded archives: images by name, annotation files by base name."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources.abc import Traversable
from pathlib import Path

from pipeline.data.acquire.sources import Layout
from pipeline.data.archives import BROKEN, open_archive
from pipeline.data.images import is_image
from pipeline.errors import InputError
from pipeline.params import LimitsParams

Files = Mapping[str, Traversable]  # annotation files by base name: on the disk or inside an archive


@dataclass(frozen=True)
class ImageFile:
    """One image, on the disk or inside an archive: its size in bytes and how to read it."""

    place: str
    size_bytes: int
    read: Callable[[], bytes]


@dataclass
class ImageFiles:
    """Images by exact name, else by `identity`, which is equal for several names of one picture."""

    identity: Callable[[str], str]
    by_place: dict[str, ImageFile] = field(default_factory=dict)
    by_name: dict[str, ImageFile] = field(default_factory=dict)
    by_identity: dict[str, list[ImageFile]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.by_place)

    def add(self, image: ImageFile, *names: str) -> None:
        """Add an image under its names; the first image with a name keeps it."""
        self.by_place[image.place] = image
        for name in names:
            self.by_name.setdefault(name, image)
            alike = self.by_identity.setdefault(self.identity(name), [])
            if image not in alike:
                alike.append(image)

    def listing(self) -> list[tuple[str, int]]:
        """Path and size in bytes of every image, sorted."""
        return sorted((place, image.size_bytes) for place, image in self.by_place.items())

    def find(self, name: str) -> ImageFile | None:
        """The image of this name or identity, None if there is none.

        Raises:
            InputError: naming both, if two files match.
        """
        if name in self.by_name:
            return self.by_name[name]
        images = self.by_identity.get(self.identity(name), [])
        if len(images) > 1:
            raise InputError(f"image {name!r}: is it {images[0].place} or {images[1].place}? Leave one of them")
        return images[0] if images else None

    def add_folder(self, folder: Path, root: Path) -> None:
        """Add every image below `folder`, by its path relative to it and to `root`; each link is followed once."""
        seen: set[str] = set()
        for place, folders, names in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            for name in sorted(filter(is_image, names)):
                path = Path(place, name)
                if path.is_file():
                    image = ImageFile(str(path), path.stat().st_size, path.read_bytes)
                    self.add(image, *(path.relative_to(base).as_posix() for base in (folder, root)))

    def add_archive(self, path: Path, limits: LimitsParams) -> None:
        """Add every image in an archive, by its member's name.

        Raises:
            InputError: as `open_archive`.
        """
        archive = open_archive(path, limits=limits)
        for member in archive.infolist():
            if is_image(member.filename) and not member.is_dir():
                image = ImageFile(f"{path}: {member.filename}", member.file_size, _reader(archive, member))
                self.add(image, member.filename)


def _reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return archive.read(member)
        except BROKEN as error:
            raise InputError(f"{archive.filename}: member {member.filename!r} is damaged: {error}") from None

    return read


def files_in(folders: Iterable[Path]) -> dict[str, list[Traversable]]:
    """The plain files directly in these folders, by base name."""
    found: dict[str, list[Traversable]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and not path.name.startswith("."):
                found.setdefault(path.name, []).append(path)
    return found


def files_in_archive(path: Path, limits: LimitsParams) -> dict[str, list[Traversable]]:
    """The files anywhere in an archive, by base name.

    Raises:
        InputError: as `open_archive`.
    """
    archive = open_archive(path, limits=limits)
    found: dict[str, list[Traversable]] = {}
    for name in archive.namelist():
        base = name.rpartition("/")[2]
        if base and not base.startswith(".") and not name.startswith("__MACOSX"):
            found.setdefault(base, []).append(zipfile.Path(archive, name))
    return found


def match_layout(layout: Layout, found: Mapping[str, Sequence[Traversable]]) -> Files | str:
    """The files of a layout among those found; if some are missing, a sentence about that; if all are, "".

    Raises:
        InputError: when several files match.
    """
    chosen: dict[str, Traversable] = {}
    missing = []
    for pattern in (*layout.files, *layout.optional):
        places = [place for name in sorted(found) if _matches(name, pattern) for place in found[name]]
        if len(places) > 1:
            raise InputError(f"annotations: is it {places[0]} or {places[1]}? Leave one of them")
        for place in places:
            chosen[place.name] = place
        if not places and pattern in layout.files:
            missing.append(pattern.replace("|", " or "))
    if not missing:
        return chosen
    return f"found {', '.join(sorted(chosen))} but not {', '.join(missing)}" if chosen else ""


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatchcase(name, alternative) for alternative in pattern.split("|"))
