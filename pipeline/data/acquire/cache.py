"""Published files, kept across runs: the user's own if present, else downloaded once; checked at every use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipeline.data.acquire.download import check_digest, fetch_item
from pipeline.data.acquire.sources import Item
from pipeline.data.archives import check_archive
from pipeline.errors import InputError
from pipeline.files import digest_of, sha256, write_text
from pipeline.params import LimitsParams


@dataclass(frozen=True)
class Kept:
    """A published file on this disk: its path, its SHA-256 and its address."""

    path: Path
    sha256: str
    address: str


@dataclass(frozen=True)
class Store:
    """Downloads into `folder` what `root`, the user's folder, lacks; safe for several processes at once."""

    folder: Path
    root: Path | None
    mirror: str | None
    limits: LimitsParams

    def has(self, items: Sequence[Item]) -> bool:
        """Whether there are items and the user's folder holds all of their files."""
        return bool(items) and all(self._own(item) is not None for item in items)

    def get(self, item: Item) -> Kept:
        """The file of an item, downloaded on first use, checked against the digest in the catalogue.

        Without a digest in the catalogue, the digest is recorded at the first use and compared at every later use.

        Raises:
            InputError: for a failed download, a damaged archive, or a file with another digest than the published or
                recorded one.
        """
        own = self._own(item)
        path = own or self.folder / item.name
        # A user's folder may be read-only: its files are recorded in `folder`, under a name made from the path.
        name = f"{item.name}.{digest_of(str(path))[:8]}" if own else item.name
        record = self.folder / f"{name}.sha256"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            if not path.exists():
                self._fetch(item, path)
            found = sha256(path)
            if item.sha256 is not None:
                check_digest(item, found, f"{path}{'' if own else ' (delete it to have it fetched again)'}")
                return Kept(path, found, item.address)
            if not record.exists():
                if path.suffix == ".zip":
                    check_archive(path, limits=self.limits)
                write_text(record, f"{found}  {item.name}\n")
            recorded = record.read_text(errors="replace").partition(" ")[0]
        if found != recorded:
            again = "" if own else f"{path} to have it fetched again, or "
            raise InputError(
                f"{path}: its SHA-256 is {found}, but {recorded} was recorded on first use; delete {again}{record} "
                "if the file is right as it is"
            )
        return Kept(path, found, item.address)

    def _fetch(self, item: Item, path: Path) -> None:
        try:
            fetch_item(item, path, self.mirror, self.limits)
        except InputError as error:
            if self.root is None:
                raise
            raise InputError(f"{error}. {self.root} holds no {item.name}; with it there, nothing is fetched") from None

    def _own(self, item: Item) -> Path | None:
        if self.root is None:
            return None
        return next(
            (path for folder in ("", "annotations") if (path := self.root / folder / item.name).is_file()), None
        )
