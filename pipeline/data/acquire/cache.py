"""Published files that outlast one run: the user's own where he has them, else fetched once, and checked ever after."""

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
    """A published file at hand: where it lies, its SHA-256 and its address."""

    path: Path
    sha256: str
    address: str


@dataclass(frozen=True)
class Store:
    """Fetches into `folder` what `root`, the user's own folder, does not hold; safe for several processes at once."""

    folder: Path
    root: Path | None
    mirror: str | None
    limits: LimitsParams

    def has(self, items: Sequence[Item]) -> bool:
        """Whether the user's folder holds all of these files, and there are any."""
        return bool(items) and all(self._own(item) is not None for item in items)

    def get(self, item: Item) -> Kept:
        """The file of an item, fetched on first use, with the digest that the catalogue states.

        Where it states none, the digest is recorded on first use and compared on every later one.

        Raises:
            InputError: for what cannot be fetched, an archive that is damaged, or a file that is not the one published
                or recorded.
        """
        own = self._own(item)
        path = own or self.folder / item.name
        # A user's folder may be read-only: the record of a file in it is kept here, under a name of its path.
        name = f"{item.name}.{digest_of(str(path))[:8]}" if own else item.name
        record = self.folder / f"{name}.sha256"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            if not path.exists():
                fetch_item(item, path, self.mirror, self.limits)
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

    def _own(self, item: Item) -> Path | None:
        if self.root is None:
            return None
        return next(
            (path for folder in ("", "annotations") if (path := self.root / folder / item.name).is_file()), None
        )
