"""Downloads from a server that breaks off, stalls and lies: resumed or refused, and never a corrupt file."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.acquire import download
from pipeline.data.acquire.download import PIECE_BYTES, fetch_item, resolve
from pipeline.data.acquire.sources import FNE_JSON, KARPATHY, Item
from pipeline.data.archives import check_archive
from pipeline.errors import InputError
from pipeline.files import users_path
from tests.data.published import LIMITS
from tests.faults.profiles import examples

STALL_S = 0.25
fetch = functools.partial(download.fetch, pause_s=0.0, attempts=3, timeout_s=(2.0, 0.1))


@pytest.fixture(autouse=True, scope="module")
def no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


def archive(seed: int) -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("a.bin", random.Random(seed).randbytes(200_000))
    return content.getvalue()


CONTENT, OTHER = archive(1), archive(2)
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers as the script says, one entry a request; after its end as a good server does."""

    script: list[Fault]
    release: threading.Event
    ranges: list[str | None]

    def do_GET(self) -> None:
        self.ranges.append(self.headers.get("Range"))
        (self.script.pop(0) if self.script else good)(self)

    def asked_from(self) -> int:
        """The byte from which the rest is wanted, 0 for all."""
        wanted = self.headers.get("Range", "")
        return int(wanted[6:-1]) if wanted and self.headers.get("If-Range") == '"1"' else 0

    def answer(self, body: bytes, status: int = 200, **headers: str | None) -> None:
        """Headers that are None are left out; `_` stands for `-`."""
        all_headers: dict[str, str | None] = {"ETag": '"1"', "Content_Length": str(len(body)), "Content_Type": "x/zip"}
        self.send_response(status)
        for name, value in (all_headers | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def rest(self, content: bytes, sent: int | None = None, shift: int = 0) -> None:
        """The content from where it was asked for, or `shift` before that, or only `sent` bytes of that."""
        start, size = self.asked_from(), len(content)
        start -= shift if start else 0
        place = f"bytes {start}-{size - 1}/{size}" if start else None
        status = 206 if start else 200
        self.answer(content[start:][:sent], status, Content_Range=place, Content_Length=str(size - start))

    def log_message(self, format: str, *arguments: object) -> None:
        pass


Fault = Callable[[Handler], object]


def good(handler: Handler) -> None:
    if handler.asked_from() >= len(CONTENT):
        handler.answer(b"", 416)
    else:
        handler.rest(CONTENT)


def half(**headers: str | None) -> Fault:
    """Half of the content, with these headers."""
    return lambda handler: handler.answer(CONTENT[: len(CONTENT) // 2], 200, **headers)


def whole(**headers: str | None) -> Fault:
    """All of the content, with these headers."""
    return lambda handler: handler.answer(CONTENT, 200, **headers)


def cuts(handler: Handler) -> None:
    handler.rest(CONTENT, sent=70_000)


def stalls(handler: Handler) -> None:
    half(Content_Length=str(len(CONTENT)))(handler)
    handler.release.wait(STALL_S)


FAULTS: dict[str, Fault] = {
    "cuts": cuts,
    "stalls": stalls,
    "never answers": lambda handler: handler.release.wait(STALL_S),
    "cuts without a length": half(Content_Length=None),
    "206 from another place": lambda handler: handler.rest(CONTENT, shift=7),
    "206 of another file": lambda handler: handler.rest(OTHER if handler.asked_from() else CONTENT),
    "ignores Range": whole(),
    "has no tag": half(ETag=None, Content_Length="250000"),
    "cuts a changed file": half(ETag='"2"', Content_Length="250000"),
    "a web page": lambda handler: handler.answer(PAGE, Content_Type="text/html"),
    "a web page that says it is a file": lambda handler: handler.answer(PAGE),
    "a length too long": whole(Content_Length="250000"),
    "a length too short": whole(Content_Length="150000"),
    "a length of 5000 digits": half(Content_Length="9" * 5000),
    "packed": whole(Content_Encoding="gzip"),
    "nothing": lambda handler: handler.answer(b""),
    "416 at once": lambda handler: handler.answer(b"", 416),
    "500": lambda handler: handler.answer(b"", 500),
    "404": lambda handler: handler.answer(b"", 404),
    "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
    **{
        f"a redirect to {place}": lambda handler, place=place: handler.answer(b"", 302, Location=place)  # type: ignore[misc]
        for place in ("file:///etc/passwd", "ftp://127.0.0.1/x", "http://localhost:9/x", "http://[", "/again")
    },
}


@contextmanager
def served(script: list[Fault], ranges: list[str | None] | None = None) -> Iterator[str]:
    release = threading.Event()
    own = {"script": script, "release": release, "ranges": [] if ranges is None else ranges}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), own)) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no news
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file.zip"
        finally:
            release.set()
            server.shutdown()
            thread.join()


def whole_or_refused(script: list[Fault], folder: Path) -> str:
    """Try the script, then a good server; returns the first error. The file is right or absent after each."""
    path, error = folder / "file.zip", ""
    with served(script) as url:
        verify = functools.partial(check_archive, label=url, limits=LIMITS)
        try:
            fetch(url, path, verify)
        except InputError as refusal:
            error = str(refusal)
            assert not path.exists()
            assert error.startswith(url)
            script.clear()
            fetch(url, path, verify)
    assert path.read_bytes() == CONTENT
    assert [left.name for left in folder.iterdir()] == ["file.zip"]
    return error


@pytest.mark.parametrize("name", ["cuts", "stalls", "never answers", "no HTTP", "500", "has no tag"])
def test_a_fault_that_passes_is_survived(name: str, tmp_path: Path) -> None:
    assert whole_or_refused([FAULTS[name]], tmp_path) == ""


@pytest.mark.parametrize("name", ["206 from another place", "ignores Range", "cuts a changed file"])
def test_it_starts_again_where_it_cannot_resume(name: str, tmp_path: Path) -> None:
    assert whole_or_refused([cuts, FAULTS[name]], tmp_path) == ""


def test_a_rest_of_another_file_is_refused(tmp_path: Path) -> None:
    assert "damaged archive" in whole_or_refused([cuts, FAULTS["206 of another file"]], tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stalls", "no answer after 3 attempts"),
        ("500", "no answer after 3 attempts"),
        ("404", "the server answers 404"),
        ("416 at once", "the server answers 416"),
        ("a length too long", "no answer after 3 attempts"),
        ("a length too short", "not a whole ZIP archive"),
        ("a length of 5000 digits", "not a whole ZIP archive"),
        ("cuts without a length", "not a whole ZIP archive"),
        ("a web page", "sent a web page"),
        ("a web page that says it is a file", "not a whole ZIP archive"),
        ("nothing", "not a whole ZIP archive"),
        ("packed", "packed by gzip"),
        ("a redirect to file:///etc/passwd", "redirected to file:///etc/passwd; only http and https"),
        ("a redirect to ftp://127.0.0.1/x", "redirected to ftp:"),
        ("a redirect to http://localhost:9/x", "redirected to http://localhost:9/x; .* only on the same host"),
        ("a redirect to http://[", "redirected to"),
        ("a redirect to /again", "more than 5 redirects"),
    ],
)
def test_a_fault_that_stays_is_named(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected), served([FAULTS[name]] * 50) as url:
        fetch(url, tmp_path / "file.zip", check_archive)
    assert not (tmp_path / "file.zip").exists()


@examples(fast=25)
@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=6))
def test_any_faults_in_any_order(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    whole_or_refused([FAULTS[name] for name in names], tmp_path_factory.mktemp("any"))


def test_a_redirect_on_the_same_host_is_followed(tmp_path: Path) -> None:
    def redirects(handler: Handler) -> None:
        handler.answer(b"", 302, Location="/elsewhere")

    assert whole_or_refused([redirects], tmp_path) == ""


@pytest.mark.parametrize(
    ("place", "target", "allowed"),
    [
        ("https://github.com/a", "https://release-assets.githubusercontent.com/b", True),
        ("https://github.com/a", "https://evilgithubusercontent.com/b", False),
        ("https://github.com/a", "http://github.com/a", False),
        ("http://host.org/a", "https://www.host.org/b", True),
        ("http://host.org/a", "http://127.0.0.1/b", False),
    ],
)
def test_where_a_redirect_may_lead(place: str, target: str, allowed: bool) -> None:
    assert download._may_lead(place, target) is allowed


def test_a_later_run_resumes_where_the_earlier_one_stopped(tmp_path: Path) -> None:
    ranges: list[str | None] = []
    with served([cuts, *[FAULTS["never answers"]] * 3], ranges) as url:
        with pytest.raises(InputError, match=f"{PIECE_BYTES} bytes are kept and the next attempt goes on from there"):
            fetch(url, tmp_path / "file.zip", check_archive)
        fetch(url, tmp_path / "file.zip", check_archive)
    assert ranges[0] is None and set(ranges[1:]) == {f"bytes={PIECE_BYTES}-"}, "or one more, if slow"
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_part_that_was_complete_already_is_taken(tmp_path: Path) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    ranges: list[str | None] = []
    with served([], ranges) as url:
        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path / "file.zip", killed)
        fetch(url, tmp_path / "file.zip", check_archive)
    assert ranges == [None, f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with served([]) as url:
        pass
    reason = (
        r"127\.0\.0\.1:\d+/file\.zip: no answer after 3 attempts \(Failed to establish a new connection: .*refused\)"
    )
    with pytest.raises(InputError, match=reason):
        fetch(url, tmp_path / "file.zip", check_archive)


def test_another_file_than_the_one_published_never_gets_its_name(tmp_path: Path) -> None:
    digest = hashlib.sha256(PAGE).hexdigest()
    with served([FAULTS["a web page that says it is a file"]] * 2) as url:
        with pytest.raises(InputError, match=rf"^{url}: not the published a\.zip: its SHA-256 is {digest}, expected"):
            fetch_item(Item("a.zip", url, sha256="0" * 64), tmp_path / "a.zip", None, LIMITS)
        assert not list(tmp_path.iterdir())
        fetch_item(Item("a.zip", url, sha256=digest), tmp_path / "a.zip", None, LIMITS)
    assert (tmp_path / "a.zip").read_bytes() == PAGE  # which is no archive: nothing else is checked


@pytest.mark.parametrize(
    ("name", "content"), [("a.zip", CONTENT), ("a.json", json.dumps([{"image": "a.jpg"}] * 100).encode())]
)
def test_without_a_digest_a_file_is_read_whole_before_it_gets_its_name(
    name: str, content: bytes, tmp_path: Path
) -> None:
    script: list[Fault] = [lambda handler: handler.answer(content[:-30]), lambda handler: handler.answer(content)]
    with served(script) as url:
        with pytest.raises(InputError, match=rf"{url}: not (a whole ZIP archive|readable as JSON)"):
            fetch_item(Item(name, url), tmp_path / name, None, LIMITS)
        assert list(tmp_path.iterdir()) == []
        fetch_item(Item(name, url), tmp_path / name, None, LIMITS)
    assert (tmp_path / name).read_bytes() == content


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
