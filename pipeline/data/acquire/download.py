"""Downloads that resume and are checked; a partial file never has the final name."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests

from pipeline.data.acquire.sources import Item
from pipeline.data.archives import check_archive
from pipeline.data.text import read_json
from pipeline.errors import InputError
from pipeline.files import sha256, write_text
from pipeline.params import LimitsParams
from pipeline.progress import progress

TIMEOUT_S = (10, 60)  # to connect; between two chunks of a response
DRIVE_HOST = "drive.google.com"
PIECE_BYTES = 1 << 16  # a broken connection loses at most this much
REDIRECTS = 5
ELSEWHERE = {"github.com": "githubusercontent.com"}  # hosts that redirect downloads to another host
Verify = Callable[[Path], None]


def resolve(item: Item, mirror: str | None) -> str:
    """The item's address, with the mirror's host instead of its own.

    A Drive item has no path: a file is `<mirror>/<file id>`, a file in a folder is `<mirror>/<folder id>/<name>`.

    Raises:
        InputError: for a mirror that is not an http(s) address.
    """
    if mirror is None:
        return item.address
    try:
        target, address = urlsplit(mirror), urlsplit(item.address)
    except ValueError as error:
        raise InputError(f"data.mirror = {mirror!r}: {error}; an address is such as http://127.0.0.1:8000") from None
    if target.scheme not in ("http", "https") or not target.netloc or target.query or target.fragment:
        raise InputError(f"data.mirror = {mirror!r}: expected an address such as http://127.0.0.1:8000")
    path = address.path
    if address.hostname == DRIVE_HOST:
        kind, identity = _drive(item.address)
        path = f"/{identity}/{item.name}" if kind == "folders" else f"/{identity}"
    return urlunsplit((target.scheme, target.netloc, target.path.rstrip("/") + path, address.query, ""))


def fetch_item(item: Item, destination: Path, mirror: str | None, limits: LimitsParams) -> None:
    """Download a published file (a Drive item with gdown) and check it before it gets its final name.

    The check: the digest in the catalogue, if there is one; else an archive or JSON file is read completely.

    Raises:
        InputError: as for `fetch`, and for another digest.
    """
    url = resolve(item, mirror)

    def verify(path: Path) -> None:
        if item.sha256 is not None:
            check_digest(item, sha256(path), url)
        elif item.name.endswith(".zip"):
            check_archive(path, url, limits)
        elif item.name.endswith(".json"):
            read_json(path, url)

    if urlsplit(url).hostname == DRIVE_HOST:
        _fetch_drive(item, destination, verify)
    else:
        fetch(url, destination, verify)


def check_digest(item: Item, found: str, label: str) -> None:
    """Compare a file's SHA-256 with the catalogue's.

    Raises:
        InputError: naming the file and both digests.
    """
    if found != item.sha256:
        raise InputError(
            f"{label}: not the published {item.name}: its SHA-256 is {found}, expected {item.sha256}. "
            "If it is right as it is, unpack it into the folder that data.root names"
        )


def fetch(
    url: str,
    destination: Path,
    verify: Verify,
    *,
    attempts: int = 5,
    pause_s: float = 1.0,
    timeout_s: tuple[float, float] = TIMEOUT_S,
) -> None:
    """Download `url` to `destination`, resuming an earlier attempt.

    The partial file is `<destination>.part`; `<destination>.part.validator` holds what identifies the server's file
    (its ETag or date). The download resumes only if the server still has the same file; else it restarts. `verify`
    checks the complete file before it gets its final name. `attempts` is the number of consecutive connections without
    progress; `timeout_s` is the time to connect, and between two chunks of a response.

    Raises:
        InputError: naming the address: unreachable, refused, a web page instead of the file, a redirect to another
            host or away from http(s), or an error of `verify` (the partial file is then removed).
    """
    part = destination.with_name(destination.name + ".part")
    failures = 0
    most_bytes = _size(part)  # the maximum, not the last size: a part that grows and is deleted again is no progress
    while True:
        try:
            _continue(url, part, timeout_s)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failures = 0 if _size(part) > most_bytes else failures + 1
            most_bytes = max(most_bytes, _size(part))
            if failures >= attempts:
                kept = (
                    f"; {_size(part)} bytes are kept and the next attempt goes on from there" if part.exists() else ""
                )
                raise InputError(f"{url}: no answer after {attempts} attempts ({_reason(error)}){kept}") from None
            time.sleep(min(pause_s * 2**failures, 30))
        except requests.RequestException as error:
            raise InputError(f"{url}: cannot be fetched: {error}") from None
    _finish(part, destination, verify)


def _continue(url: str, part: Path, timeout_s: tuple[float, float]) -> None:
    """One connection: append the missing bytes to `part`, or restart it if it cannot be resumed.

    What a server sends is not checked further: `verify` reads the complete file.
    """
    state = _state(part)
    validator = state.read_text() if state.exists() else ""
    start_bytes = _size(part) if validator else 0
    headers = {"Accept-Encoding": "identity"}  # with compression, sizes and ranges would not be the file's
    if start_bytes:
        headers |= {"Range": f"bytes={start_bytes}-", "If-Range": validator}
    with _asked(url, headers, timeout_s) as answer:
        if answer.status_code == 416 and start_bytes:
            return  # nothing is missing
        if answer.status_code >= 500:
            raise requests.ConnectionError(f"the server answers {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise InputError(f"{url}: the server answers {answer.status_code} {answer.reason}")
        if "text/html" in answer.headers.get("Content-Type", "").lower():
            raise InputError(f"{url}: the server sent a web page (text/html) instead of the file; nothing was kept")
        if (packing := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise InputError(f"{url}: the server sent the file packed by {packing}, though asked not to")
        if answer.status_code == 200:
            start_bytes = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start_bytes}-"):
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the server continued at another place; starting again")
        length = answer.headers.get("Content-Length", "")
        total_bytes = start_bytes + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        if start_bytes == 0:
            part.unlink(missing_ok=True)  # first: a kill after this cannot mix two files
            write_text(state, _validator(answer))
        with open(part, "ab" if start_bytes else "wb") as handle:
            pieces = answer.iter_content(PIECE_BYTES)
            count = math.ceil((total_bytes - start_bytes) / PIECE_BYTES) if total_bytes is not None else None
            for piece in progress(pieces, label=f"{Path(urlsplit(url).path).name} (64 KiB each)", total=count):
                handle.write(piece)


def _reason(error: BaseException) -> str:
    """The innermost reason of a failed request, which requests and urllib3 wrap: a name that is unknown, a time-out."""
    while isinstance(inner := getattr(error, "reason", None) or next(iter(error.args), None), BaseException):
        error = inner
    return " ".join(str(error).rpartition("): ")[2].split())[:200]


def _asked(url: str, headers: Mapping[str, str], timeout_s: tuple[float, float]) -> requests.Response:
    """The response to a request; follows only allowed redirects."""
    place = url
    for _ in range(REDIRECTS + 1):
        try:
            answer = requests.get(place, headers=headers, stream=True, timeout=timeout_s, allow_redirects=False)
        except requests.RequestException:
            raise
        except ValueError as error:  # requests also parses a redirect that it does not follow, which may be invalid
            raise InputError(f"{url}: redirected to what is no address: {error}") from None
        if not answer.is_redirect:
            return answer
        answer.close()
        target = answer.headers["Location"]
        try:
            target = urljoin(place, target)
            allowed = _may_lead(place, target)
        except ValueError:  # an invalid address
            allowed = False
        if not allowed:
            raise InputError(
                f"{url}: redirected to {target[:200]}; only http and https are followed, never from https to http, and "
                "only on the same host. Fetch it by hand and put it into the folder that data.root names"
            )
        place = target
    raise InputError(f"{url}: more than {REDIRECTS} redirects")


def _may_lead(place: str, target: str) -> bool:
    source, goal = urlsplit(place), urlsplit(target)
    if goal.scheme not in ("http", "https") or (source.scheme, goal.scheme) == ("https", "http"):
        return False
    host, other = source.hostname or "", goal.hostname or ""
    keeper = ELSEWHERE.get(host)
    return host.removeprefix("www.") == other.removeprefix("www.") or (
        keeper is not None and f".{other}".endswith(f".{keeper}")
    )


def _finish(part: Path, destination: Path, verify: Verify) -> None:
    """Give the complete part its final name if `verify` accepts it, else remove it."""
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


def _validator(answer: requests.Response) -> str:
    """A value for If-Range: a strong ETag, else Last-Modified, else ""; a weak ETag does not guarantee equal bytes."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".validator")
