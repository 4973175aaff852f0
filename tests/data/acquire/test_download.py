"""Downloads against a server that breaks off, ignores ranges, changes its file, or sends something else."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.data.acquire import download
from pipeline.data.acquire.download import fetch_item, resolve
from pipeline.data.acquire.sources import FNE_JSON, KARPATHY, Item
from pipeline.data.archives import check_archive
from pipeline.errors import InputError
from pipeline.files import users_path
from tests.data.published import LIMITS, write_zip

CONTENT = bytes(range(256)) * 14_000  # 3.4 MiB: more than one chunk
fetch = functools.partial(download.fetch, pause_s=0.0, attempts=3)


@dataclass
class Behaviour:
    """What the server does; `ranges` collects the Range header of each request."""

    content: bytes = CONTENT
    tag: str | None = '"1"'
    understands_ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes of each answer, in turn
    kind: str = "application/zip"
    status: int | None = None
    location: str | None = None
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def server(behaviour: Behaviour) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.ranges.append(wanted)
            start = 0
            if wanted and behaviour.understands_ranges and self.headers.get("If-Range") == behaviour.tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            rest = behaviour.content[start:]
            status = behaviour.status or (416 if start and not rest else 206 if start else 200)
            self.send_response(status)
            if behaviour.location:
                self.send_header("Location", behaviour.location)
            if status == 206:
                total = len(behaviour.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if behaviour.tag:
                self.send_header("ETag", behaviour.tag)
            self.send_header("Content-Type", behaviour.kind)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if status in (200, 206):
                self.wfile.write(rest[: behaviour.breaks_after.pop(0)] if behaviour.breaks_after else rest)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/file.zip"
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_connection_that_breaks_is_gone_on_with(tmp_path: Path) -> None:
    behaviour = Behaviour(breaks_after=[2_000_000])
    with server(behaviour) as url:
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert behaviour.ranges[0] is None
    assert behaviour.ranges[1] is not None
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


def test_a_later_run_goes_on_where_the_earlier_one_stopped(tmp_path: Path) -> None:
    behaviour = Behaviour(breaks_after=[2_000_000, 0, 0, 0])
    with server(behaviour) as url:
        with pytest.raises(InputError, match="bytes are kept and the next attempt goes on from there"):
            fetch(url, tmp_path / "file.zip")
        assert not (tmp_path / "file.zip").exists()
        behaviour.breaks_after.clear()
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert behaviour.ranges.count(None) == 1


@pytest.mark.parametrize("change", ["content", "ranges", "tag"])
def test_it_starts_again_where_it_cannot_go_on(change: str, tmp_path: Path) -> None:
    behaviour = Behaviour(breaks_after=[2_000_000, 0, 0, 0], tag=None if change == "tag" else '"1"')
    with server(behaviour) as url:
        with pytest.raises(InputError):
            fetch(url, tmp_path / "file.zip")
        behaviour.breaks_after.clear()
        if change == "content":
            behaviour.content, behaviour.tag = CONTENT[::-1], '"2"'
        elif change == "ranges":
            behaviour.understands_ranges = False
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == behaviour.content


def test_a_part_that_was_complete_already_is_taken(tmp_path: Path) -> None:
    behaviour = Behaviour()
    with server(behaviour) as url:

        def refuse_first(path: Path) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path / "file.zip", verify=refuse_first)
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (Behaviour(kind="text/html; charset=utf-8"), "sent a web page"),
        (Behaviour(status=404), "answers 404"),
        (Behaviour(status=503), "no answer after 3 attempts"),
        (Behaviour(status=302, location="file:///etc/passwd"), "only http and https are followed"),
        (Behaviour(status=302, location="ftp://127.0.0.1/x"), "only http and https are followed"),
    ],
)
def test_anything_but_the_file_is_refused(behaviour: Behaviour, expected: str, tmp_path: Path) -> None:
    with server(behaviour) as url, pytest.raises(InputError, match=expected):
        fetch(url, tmp_path / "file.zip")
    assert not (tmp_path / "file.zip").exists()


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with server(Behaviour()) as url:
        pass
    with pytest.raises(InputError, match=r"127\.0\.0\.1:\d+/file\.zip: no answer after 3 attempts"):
        fetch(url, tmp_path / "file.zip")


def test_a_file_that_is_refused_leaves_nothing_and_the_next_one_starts_afresh(tmp_path: Path) -> None:
    behaviour = Behaviour()
    with server(behaviour) as url, pytest.raises(InputError, match="not a whole ZIP archive"):
        fetch(url, tmp_path / "file.zip", verify=check_archive)
    assert not list(tmp_path.iterdir())


def test_an_archive_that_is_cut_off_never_gets_its_name(tmp_path: Path) -> None:
    write_zip(tmp_path / "whole.zip", {"a.txt": "text" * 100})
    behaviour = Behaviour(content=(tmp_path / "whole.zip").read_bytes()[:-30])
    with server(behaviour) as url, pytest.raises(InputError, match="not a whole ZIP archive"):
        fetch_item(Item("file.zip", url), tmp_path / "kept/file.zip", None, LIMITS)
    assert not list((tmp_path / "kept").iterdir())


def test_another_file_than_the_one_published_never_gets_its_name(tmp_path: Path) -> None:
    with server(Behaviour()) as url:
        digest = hashlib.sha256(CONTENT).hexdigest()
        with pytest.raises(
            InputError, match=rf"^{url}: not the published file\.zip: its SHA-256 is {digest}, expected"
        ):
            fetch_item(Item("file.zip", url, sha256="0" * 64), tmp_path / "file.zip", None, LIMITS)
        assert not list(tmp_path.iterdir())
        fetch_item(Item("file.zip", url, sha256=digest), tmp_path / "file.zip", None, LIMITS)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT  # which is no archive: nothing else is asked


def test_no_space_is_seen_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.acquire.space.RESERVE_BYTES", 1 << 60)
    with server(Behaviour()) as url, pytest.raises(InputError, match="no space left for downloading"):
        fetch(url, tmp_path / "file.zip")


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (Item("caption_datasets.zip", KARPATHY), "http://h:1/m/people/karpathy/deepimagesent/caption_datasets.zip"),
        (Item("a.json", FNE_JSON), "http://h:1/m/1mondFS6TCbzvz2ZUk4UDFAxnD8xk25ie/a.json"),
        (
            Item("a.pth", "https://drive.google.com/file/d/1dh1rS3ttv-fGudx9jsLTJ/view"),
            "http://h:1/m/1dh1rS3ttv-fGudx9jsLTJ",
        ),
    ],
)
def test_a_mirror_takes_the_place_of_every_host(item: Item, expected: str) -> None:
    assert resolve(item, "http://h:1/m/") == expected
    assert resolve(item, None) == item.address


@pytest.mark.parametrize("mirror", ["ftp://h", "127.0.0.1:8000", "file:///tmp", "http://", "http://["])
def test_a_mirror_that_is_no_address_is_refused(mirror: str) -> None:
    with pytest.raises(InputError, match=r"data\.mirror = "):
        resolve(Item("a.zip", KARPATHY), mirror)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a" * 300, "a\0b"])
def test_a_place_that_no_system_takes_is_named_with_its_key(path: str) -> None:
    with pytest.raises(InputError, match=r"^data\.root = .*: no place for a file"):
        users_path(path, "data.root")


def test_a_drive_folder_is_looked_through_for_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Entry:
        id: str
        path: str

    def write(id: str, output: str, **_: object) -> None:
        Path(output).write_text(f'["content of {id}"]')

    monkeypatch.setattr("gdown.download_folder", lambda **_: [Entry("id7", "json/a.json"), Entry("id8", "b.json")])
    monkeypatch.setattr("gdown.download", write)
    fetch_item(Item("a.json", FNE_JSON), tmp_path / "a.json", None, LIMITS)
    assert (tmp_path / "a.json").read_text() == '["content of id7"]'
    with pytest.raises(InputError, match=r"holds no 'c\.json'; found a\.json, b\.json"):
        fetch_item(Item("c.json", FNE_JSON), tmp_path / "c.json", None, LIMITS)


def test_what_drive_refuses_is_said_with_a_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gdown.exceptions import FileURLRetrievalError

    def refuse(**_: object) -> None:
        raise FileURLRetrievalError("too many accesses")

    monkeypatch.setattr("gdown.download", refuse)
    with pytest.raises(InputError, match=r"too many accesses.*fetch it in a browser"):
        address = "https://drive.google.com/file/d/1dh1rS3ttv/view"
        fetch_item(Item("a.pth", address), tmp_path / "a.pth", None, LIMITS)
