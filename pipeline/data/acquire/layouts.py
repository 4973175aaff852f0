"""The content of a user's folder and of downloaded archives: images by name, annotation files by base name."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path

from pipeline.data.acquire.sources import Layout, base_name
from pipeline.data.archives import BROKEN, open_archive
from pipeline.data.images import is_image
from pipeline.data.shards import Location
from pipeline.errors import InputError
from pipeline.params import LimitsParams

Files = Mapping[str, Traversable]  # annotation files by name: on the disk or inside an archive
NOT_ANNOTATIONS = ("dataset_infos.json", "dataset_info.json")  # of the hub, beside a data set's own files


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image, on the disk, in an archive or in a shard: its size in bytes and how to read it.

    In a shard, `location` and `digest` say where it lies and what it holds, and `broken` why it does not decode.
    """

    place: str
    size_bytes: int
    read: Callable[[], bytes]
    location: Location | None = None
    digest: int = 0
    broken: str | None = None


class ImageFiles:
    """Images by exact name, else by `identity`, which is equal for several names of one picture, else by a near name.

    Near names differ in case or in the Unicode form of accents, or have another folder; an exact name may also be that
    of a file without an image's suffix. Of images that are equally near, those of the folder added first are taken.
    """

    def __init__(self, identity: Callable[[str], str]) -> None:
        self.identity = identity
        self.images: list[ImageFile] = []
        self._by_name: dict[str, int] = {}
        self._folders: dict[Path, int] = {}  # and the number of images before each
        self._by_key: dict[tuple[str, str], list[int]] | None = None  # made when a name is first not found

    def __len__(self) -> int:
        return len(self.images)

    def add(self, image: ImageFile, *names: str) -> None:
        """Add an image under its names; the first image with a name keeps it."""
        self._by_key = None
        self.images.append(image)
        for name in names:
            self._by_name.setdefault(name, len(self.images) - 1)

    def listing(self) -> list[tuple[str, int]]:
        """Path and size in bytes of every image, sorted."""
        return sorted((image.place, image.size_bytes) for image in self.images)

    def exact(self, name: str) -> ImageFile | None:
        """The image of exactly this name, None if there is none."""
        if name in self._by_name:
            return self.images[self._by_name[name]]
        for folder in self._folders:
            if (path := folder / name).is_file():
                return ImageFile(str(path), path.stat().st_size, path.read_bytes)
        return None

    def find(self, name: str) -> ImageFile | None:
        """The image of this name, None if there is none.

        Raises:
            InputError: naming both, if two files that differ match equally well.
        """
        if (image := self.exact(name)) is not None:
            return image
        if self._by_key is None:
            self._by_key = self._keys()
        for key in (("identity", self.identity(name)), ("path", _folded(name)), ("base", _folded(base_name(name)))):
            images = [self.images[row] for row in self._by_key.get(key, [])]
            for other in images[1:]:
                if other.read() != images[0].read():  # Kaggle's Flickr30K holds every image twice
                    raise InputError(f"image {name!r}: is it {images[0].place} or {other.place}? Leave one of them")
            if images:
                return images[0]
        return None

    def _keys(self) -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], list[int]] = {}
        starts = list(self._folders.values())
        for name, row in self._by_name.items():
            base = _folded(base_name(name))
            stem = base.rpartition(".")[0]  # for a table that names images without their suffix
            keys = {("identity", self.identity(name)), ("path", _folded(name)), ("base", base), ("base", stem)}
            for key in keys:
                rows = found.setdefault(key, [row])
                if row != rows[-1] and bisect(starts, row) == bisect(starts, rows[0]):
                    rows.append(row)
        return found

    def add_folder(self, folder: Path, root: Path) -> None:
        """Add every image below `folder`, by its path relative to it and to `root`."""
        known = {image.place for image in self.images}
        self._folders[folder] = len(self.images)
        for path in files_below(folder):
            if is_image(path.name) and str(path) not in known:
                image = ImageFile(str(path), path.stat().st_size, path.read_bytes)
                self.add(image, *dict.fromkeys(path.relative_to(base).as_posix() for base in (folder, root)))

    def add_archive(self, path: Path, limits: LimitsParams) -> None:
        """Add every image in an archive, by its member's name.

        Raises:
            InputError: as `open_archive`.
        """
        archive = open_archive(path, limits=limits)
        for member in archive.infolist():
            if is_image(member.filename) and not member.is_dir():
                read = partial(_read_member, archive, member)
                self.add(ImageFile(f"{path}: {member.filename}", member.file_size, read), member.filename)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except BROKEN as error:
        raise InputError(f"{archive.filename}: member {member.filename!r} is damaged: {error}") from None


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, sorted within each; hidden ones are left out, and each link is followed once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def files_in(folders: Iterable[Path]) -> dict[str, list[Traversable]]:
    """The plain files directly in these folders, by base name."""
    found: dict[str, list[Traversable]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and not path.name.startswith(".") and path.name not in NOT_ANNOTATIONS:
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
        places = [place for name in sorted(found) if matches(name, pattern) for place in found[name]]
        if len({place.read_bytes() for place in places[:2]}) > 1:
            raise InputError(f"annotations: is it {places[0]} or {places[1]}? Leave one of them")
        for place in places[:1]:
            chosen[place.name] = place
        if not places and pattern in layout.files:
            missing.append(pattern.replace("|", " or "))
    if not missing:
        return chosen
    return f"found {', '.join(sorted(chosen))} but not {', '.join(missing)}" if chosen else ""


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches one of the alternatives of a pattern, which `|` separates."""
    return any(fnmatchcase(name, alternative) for alternative in pattern.split("|"))
