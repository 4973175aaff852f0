"""The store of published files: what it keeps, and what it notices."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.data.acquire import cache as store
from pipeline.data.acquire.cache import Store
from pipeline.data.acquire.sources import Item
from pipeline.errors import InputError
from pipeline.params import LimitsParams
from tests.data.published import LIMITS

ITEM = Item("a.json", "https://example.org/path/a.json")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Instead of the network: every fetch writes the same text and is noted."""
    calls: list[Path] = []

    def fetch(item: Item, destination: Path, mirror: str | None, limits: LimitsParams) -> None:
        calls.append(destination)
        destination.write_text("published")

    monkeypatch.setattr(store, "fetch_item", fetch)
    return calls


def test_a_file_is_fetched_once_by_however_many_ask_for_it(tmp_path: Path, fetched: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda _: Store(tmp_path, None, None, LIMITS).get(ITEM), range(8)))
    assert len(fetched) == 1
    assert {file.path for file in kept} == {tmp_path / "a.json"}


def test_the_users_own_file_is_left_where_it_is(tmp_path: Path, fetched: list[Path]) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    (root / "a.json").write_text("mine")
    own = Store(tmp_path / "kept", root, None, LIMITS)
    assert own.has([ITEM])
    assert own.get(ITEM).path == root / "a.json"
    assert [path.name for path in root.iterdir()] == ["a.json"]
    assert not fetched

    (root / "a.json").write_text("changed")
    with pytest.raises(InputError, match="if the file is right as it is"):
        own.get(ITEM)


def test_a_file_fetched_anew_must_be_the_one_recorded(tmp_path: Path, fetched: list[Path]) -> None:
    published = Store(tmp_path, None, None, LIMITS)
    first = published.get(ITEM)
    first.path.unlink()
    assert published.get(ITEM) == first
    (tmp_path / "a.json.sha256").write_text("0" * 64 + "  a.json\n")
    with pytest.raises(InputError, match=f"its SHA-256 is {first.sha256}, but {'0' * 64} was recorded"):
        published.get(ITEM)


@pytest.mark.parametrize("mine", [True, False])
def test_a_file_with_a_published_digest_must_have_it_also_on_first_use(
    mine: bool, tmp_path: Path, fetched: list[Path]
) -> None:
    kept = Store(tmp_path / "kept", tmp_path / "mine" if mine else None, None, LIMITS)
    if mine:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/a.zip").write_text("published")
    digest = hashlib.sha256(b"published").hexdigest()
    assert kept.get(Item("a.zip", ITEM.address, sha256=digest)).sha256 == digest  # no archive: nothing else is asked
    with pytest.raises(InputError, match=f"not the published a.zip: its SHA-256 is {digest}, expected {'0' * 64}"):
        kept.get(Item("a.zip", ITEM.address, sha256="0" * 64))


def test_a_failed_download_names_the_file_that_the_users_folder_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("https://example.org: no answer")

    monkeypatch.setattr(store, "fetch_item", fail)
    with pytest.raises(
        InputError, match=rf"no answer\. {tmp_path} holds no a\.json; with it there, nothing is fetched"
    ):
        Store(tmp_path / "kept", tmp_path, None, LIMITS).get(ITEM)
    with pytest.raises(InputError, match=r"no answer$"):
        Store(tmp_path / "kept", None, None, LIMITS).get(ITEM)
