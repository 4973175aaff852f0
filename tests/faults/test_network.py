"""Downloads from a server that cuts, stalls and lies: gone on with or refused, never a corrupt file."""

from __future__ import annotations

import functools
import json
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.acquire import download
from pipeline.data.acquire.download import fetch_item
from pipeline.data.acquire.sources import Item
from pipeline.data.archives import check_archive
from pipeline.errors import InputError
from tests.data.published import LIMITS
from tests.faults.profiles import examples

STALL_S = 0.25
fetch = functools.partial(download.fetch, pause_s=0.0, attempts=3, timeout_s=(2.0, 0.1))


def archive(seed: int) -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("a.bin", random.Random(seed).randbytes(200_000))
        packed.writestr("b.txt", "text " * 2_000)
    return content.getvalue()


CONTENT, OTHER = archive(1), archive(2)
HALF = len(CONTENT) // 2
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers as the script says, one entry a request; after its end as a good server does."""

    script: list[Fault]
    release: threading.Event

    def do_GET(self) -> None:
        (self.script.pop(0) if self.script else good)(self)

    def asked_from(self, tag: str = '"1"') -> int:
        """The byte from which the rest is wanted, 0 for all."""
        wanted = self.headers.get("Range", "")
        return int(wanted[6:-1]) if wanted and self.headers.get("If-Range") == tag else 0

    def answer(self, body: bytes, status: int = 200, **headers: str | None) -> None:
        """Headers that are None are left out; `_` stands for `-`."""
        told: dict[str, str | None] = {"ETag": '"1"', "Content_Length": str(len(body)), "Content_Type": "x/zip"}
        self.send_response(status)
        for name, value in (told | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def rest(self, start: int, content: bytes = CONTENT, **headers: str | None) -> None:
        """An honest 206."""
        told = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}", **headers}
        self.answer(content[start:], 206, **told)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


Fault = Callable[[Handler], object]


def good(handler: Handler) -> None:
    start = handler.asked_from()
    if start >= len(CONTENT):
        handler.answer(b"", 416)
    elif start:
        handler.rest(start)
    else:
        handler.answer(CONTENT)


def cuts(handler: Handler) -> None:
    start = handler.asked_from()
    piece, length = CONTENT[start : start + 70_000], str(len(CONTENT) - start)
    if start:
        place = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.answer(piece, 206, Content_Length=length, Content_Range=place)
    else:
        handler.answer(piece, Content_Length=length)


def stalls(handler: Handler) -> None:
    handler.answer(CONTENT[:HALF], Content_Length=str(len(CONTENT)))
    handler.release.wait(STALL_S)


def wrong(shift: int = 0, larger: int = 0, shorter: int = 0) -> Fault:
    """A 206 that says another place or another size, or whose rest ends early."""

    def answer(handler: Handler) -> None:
        start, size = handler.asked_from(), len(CONTENT)
        place = f"bytes {max(0, start - shift)}-{size - 1 - shift + larger}/{size + larger}"
        handler.answer(CONTENT[start : size - shorter], 206, Content_Range=place)

    return answer


FAULTS: dict[str, Fault] = {
    "cuts": cuts,
    "stalls": stalls,
    "never answers": lambda handler: handler.release.wait(STALL_S),
    "cuts without a length": lambda handler: handler.answer(CONTENT[:HALF], Content_Length=None),
    "206 from another place": wrong(shift=7),
    "206 of another size": wrong(larger=1),
    "206 of another file": lambda handler: handler.rest(handler.asked_from(), OTHER, ETag='"2"'),
    "206 that is too short": wrong(shorter=50),
    "206 without a place": lambda handler: handler.answer(CONTENT[handler.asked_from() :], 206),
    "206 from a place of 5000 digits": lambda handler: handler.rest(HALF, Content_Range=f"bytes {'9' * 5000}-1/*"),
    "206 of the rest of nothing": lambda handler: handler.rest(HALF),
    "ignores Range": lambda handler: handler.answer(CONTENT),
    "has no tag": lambda handler: handler.answer(CONTENT[:HALF], ETag=None, Content_Length=str(len(CONTENT))),
    "cuts a changed file": lambda handler: handler.answer(OTHER[:HALF], ETag='"2"', Content_Length=str(len(OTHER))),
    "a web page": lambda handler: handler.answer(PAGE, Content_Type="text/html"),
    "a web page that says it is a file": lambda handler: handler.answer(PAGE),
    "a length too long": lambda handler: handler.answer(CONTENT, Content_Length=str(len(CONTENT) + 100)),
    "a length too short": lambda handler: handler.answer(CONTENT, Content_Length=str(len(CONTENT) - 100)),
    "a length that is no number": lambda handler: handler.answer(CONTENT[:HALF], Content_Length="many"),
    "a length of 5000 digits": lambda handler: handler.answer(CONTENT[:HALF], Content_Length="9" * 5000),
    "packed": lambda handler: handler.answer(CONTENT, Content_Encoding="gzip"),
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
def served(script: list[Fault]) -> Iterator[str]:
    release = threading.Event()
    scripted = type("Scripted", (Handler,), {"script": script, "release": release})
    with ThreadingHTTPServer(("127.0.0.1", 0), scripted) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no news
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file.zip"
        finally:
            release.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True, scope="module")
def no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


def whole_or_refused(script: list[Fault], folder: Path) -> str:
    """Try the script, then a good server: what was said of the first; the file is right or absent after it."""
    path, said = folder / "file.zip", ""
    with served(script) as url:
        verify = functools.partial(check_archive, label=url, limits=LIMITS)
        try:
            fetch(url, path, verify=verify)
        except InputError as error:
            said = str(error)
            assert not path.exists()
            assert said.startswith(url)
            script.clear()
            fetch(url, path, verify=verify)
    assert path.read_bytes() == CONTENT
    assert [left.name for left in folder.iterdir()] == ["file.zip"]
    return said


@pytest.mark.parametrize(
    "name", ["cuts", "stalls", "never answers", "no HTTP", "416 at once", "500", "has no tag", "a length too long"]
)
def test_a_fault_that_passes_is_survived(name: str, tmp_path: Path) -> None:
    assert whole_or_refused([FAULTS[name]], tmp_path) == ""


@pytest.mark.parametrize("name", [name for name in FAULTS if name.startswith("206") or name == "ignores Range"])
def test_a_wrong_rest_is_never_put_behind_a_right_beginning(name: str, tmp_path: Path) -> None:
    assert whole_or_refused([cuts, FAULTS[name]], tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stalls", "no answer after 3 attempts"),
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
        ("206 of the rest of nothing", "no answer after 3 attempts"),
        ("416 at once", "no answer after 3 attempts"),
    ],
)
def test_a_fault_that_stays_is_named(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said), served([FAULTS[name]] * 50) as url:
        fetch(url, tmp_path / "file.zip", verify=check_archive)
    assert not (tmp_path / "file.zip").exists()


@examples(fast=25)
@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=6))
def test_any_faults_in_any_order(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    whole_or_refused([FAULTS[name] for name in names], tmp_path_factory.mktemp("any"))


def test_a_redirect_on_the_same_host_is_followed(tmp_path: Path) -> None:
    assert whole_or_refused([lambda handler: handler.answer(b"", 302, Location="/elsewhere")], tmp_path) == ""


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


def test_json_is_read_whole_before_it_gets_its_name(tmp_path: Path) -> None:
    text = json.dumps([{"image": "a.jpg"}] * 100).encode()
    item = "dataset.json"
    with served([lambda handler: handler.answer(PAGE), lambda handler: handler.answer(text)]) as url:
        with pytest.raises(InputError, match=rf"{url}: not readable as JSON"):
            fetch_item(Item(item, url), tmp_path / item, None, LIMITS)
        assert list(tmp_path.iterdir()) == []
        fetch_item(Item(item, url), tmp_path / item, None, LIMITS)
    assert (tmp_path / item).read_bytes() == text
