"""Downloads that resume, are checked, and never leave half a file under its final name."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests

from pipeline.data.archives import check_archive
from pipeline.data.sources import Item
from pipeline.data.space import require_space
from pipeline.errors import InputError
from pipeline.files import CHUNK_BYTES, write_json
from pipeline.progress import progress

TIMEOUT_S = (10, 60)  # to connect; between two pieces of an answer
DRIVE_HOST = "drive.google.com"
Verify = Callable[[Path], None]


def resolve(item: Item, mirror: str | None) -> str:
    """The item's address, with the mirror's host in place of its own.

    A Drive item has no path of its own: a file is `<mirror>/<file id>`, one in a folder `<mirror>/<folder id>/<name>`.

    Raises:
        InputError: for a mirror that is no http(s) address.
    """
    if mirror is None:
        return item.address
    target, address = urlsplit(mirror), urlsplit(item.address)
    if target.scheme not in ("http", "https") or not target.netloc or target.query or target.fragment:
        raise InputError(f"data.mirror = {mirror!r}: expected an address such as http://127.0.0.1:8000")
    path = address.path
    if address.hostname == DRIVE_HOST:
        kind, identity = _drive(item.address)
        path = f"/{identity}/{item.name}" if kind == "folders" else f"/{identity}"
    return urlunsplit((target.scheme, target.netloc, target.path.rstrip("/") + path, address.query, ""))


def fetch_item(item: Item, destination: Path, mirror: str | None = None) -> None:
    """Fetch a published file, a Drive item through gdown, and check an archive whole before it gets its name.

    Raises:
        InputError: as `fetch`.
    """
    url = resolve(item, mirror)

    def verify(path: Path) -> None:
        if item.name.endswith(".zip"):
            check_archive(path, label=url)

    if urlsplit(url).hostname == DRIVE_HOST:
        _fetch_drive(item, destination, verify)
    else:
        fetch(url, destination, verify=verify)


def fetch(
    url: str, destination: Path, *, verify: Verify | None = None, attempts: int = 5, pause_s: float = 1.0
) -> None:
    """Download `url` to `destination`, going on where an earlier attempt stopped.

    What has arrived lies in `<destination>.part`, and what the server called it in `<destination>.part.json`; it is
    gone on with only if the server still has that very file, else from the start. `verify` judges the whole file
    before it gets its final name. `attempts` counts connections in a row that brought nothing new.

    Raises:
        InputError: naming the address: unreachable, refused, a web page instead of the file, a redirect away from
            http(s), no space left, or what `verify` says (the part is then removed).
    """
    part = destination.with_name(destination.name + ".part")
    destination.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        had_bytes = _size(part)
        try:
            _continue(url, part)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failures = 0 if _size(part) > had_bytes else failures + 1
            if failures >= attempts:
                kept = (
                    f"; {_size(part)} bytes are kept and the next attempt goes on from there" if part.exists() else ""
                )
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{url}: no answer after {attempts} attempts ({reason}){kept}") from None
            time.sleep(min(pause_s * 2**failures, 30))
        except requests.RequestException as error:
            raise InputError(f"{url}: cannot be fetched: {error}; only http and https are followed") from None
    _finish(part, destination, verify)


@dataclass(frozen=True)
class _Progress:
    """What the server called the file that a part is the beginning of."""

    url: str
    validator: str | None
    total_bytes: int | None

    @staticmethod
    def of(part: Path) -> _Progress | None:
        try:
            return _Progress(**json.loads(_state(part).read_text()))
        except (OSError, ValueError, TypeError):
            return None


def _continue(url: str, part: Path) -> None:
    """One connection: append to `part` what is missing, or start it again where it cannot be gone on with."""
    known = _Progress.of(part)
    have_bytes = _size(part)
    headers = {"Accept-Encoding": "identity"}  # compressed on the way, sizes and ranges would not be the file's
    if have_bytes and known is not None and known.url == url and known.validator is not None:
        headers |= {"Range": f"bytes={have_bytes}-", "If-Range": known.validator}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == 416 and known is not None and have_bytes == known.total_bytes:
            return
        if answer.status_code == 416:
            part.unlink()
            raise requests.ConnectionError("the part kept is longer than the file; starting again")
        if answer.status_code >= 500:
            raise requests.ConnectionError(f"the server answers {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise InputError(f"{url}: the server answers {answer.status_code} {answer.reason}")
        if "text/html" in answer.headers.get("Content-Type", "").lower():
            raise InputError(f"{url}: the server sent a web page (text/html) instead of the file; nothing was kept")
        if answer.status_code == 206 and not _continues(answer, have_bytes, known):
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the server continued another file or at another place; starting again")
        start_bytes = have_bytes if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length")
        total_bytes = start_bytes + int(length) if length is not None and length.isdigit() else None
        require_space(part.parent, (total_bytes or start_bytes) - start_bytes, f"downloading {url}")
        if start_bytes == 0:
            write_json(_state(part), asdict(_Progress(url, _validator(answer), total_bytes)))
        with open(part, "ab" if start_bytes else "wb") as handle:
            chunks = answer.iter_content(CHUNK_BYTES)
            count = math.ceil((total_bytes - start_bytes) / CHUNK_BYTES) if total_bytes is not None else None
            for chunk in progress(chunks, label=f"{Path(urlsplit(url).path).name} (MiB)", total=count):
                handle.write(chunk)
    if total_bytes is not None and _size(part) != total_bytes:
        raise requests.ConnectionError(f"{_size(part)} of {total_bytes} bytes arrived")


def _continues(answer: requests.Response, have_bytes: int, known: _Progress | None) -> bool:
    """Whether a partial answer begins where the part ends and belongs to a file of the size known."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if found is None or int(found.group(1)) != have_bytes:
        return False
    return known is None or known.total_bytes is None or found.group(2) in ("*", str(known.total_bytes))


def _finish(part: Path, destination: Path, verify: Verify | None) -> None:
    """Give the whole part its final name once `verify` accepts it; a part it refuses could never be completed."""
    if verify is not None:
        try:
            verify(part)
        except InputError:
            part.unlink()
            _state(part).unlink(missing_ok=True)
            raise
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, destination)
    _state(part).unlink(missing_ok=True)


def _fetch_drive(item: Item, destination: Path, verify: Verify) -> None:
    import gdown
    from gdown.exceptions import DownloadError

    part = destination.with_name(destination.name + ".part")
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        kind, identity = _drive(item.address)
        if kind == "folders":
            found = gdown.download_folder(
                id=identity, skip_download=True, quiet=True, use_cookies=False, timeout=TIMEOUT_S
            )
            names = {Path(entry.path).name: entry.id for entry in found}  # type: ignore[union-attr]
            if item.name not in names:
                raise InputError(
                    f"{item.address}: holds no {item.name!r}; found {', '.join(sorted(names)) or 'nothing'}"
                )
            identity = names[item.name]
        gdown.download(
            id=identity, output=str(part), quiet=True, resume=True, use_cookies=False, timeout=TIMEOUT_S, retries=3
        )
    except (DownloadError, requests.RequestException) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{item.address}: Google Drive did not give {item.name} ({reason}); fetch it in a browser and put it into "
            "the folder that data.root names"
        ) from None
    _finish(part, destination, verify)


def _drive(address: str) -> tuple[str, str]:
    """("folders" or "file", id) of a Drive address."""
    found = re.search(r"/(?:drive/)?(folders|file)/(?:d/)?([\w-]+)", urlsplit(address).path)
    if found is None:
        raise ValueError(f"{address}: neither a Drive file nor a Drive folder")
    return found.group(1), found.group(2)


def _validator(answer: requests.Response) -> str | None:
    """What If-Range may name: a strong ETag, else the date of change; a weak ETag would not vouch for the bytes."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")
