"""The Hugging Face hub, by a local server: what is fetched, what is kept, and what is said when it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from pipeline.data.acquire.hub import fetch_repository
from pipeline.errors import InputError
from pipeline.params import load_params
from tests.data.brought import COMMIT, serve_hub
from tests.data.published import PARAMS, write_files

FILES = {"data/train.csv": "a", "data/test.csv": "b", "README.md": "card", "run.py": "code"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no proxy before the server."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fetch(folder: Path, *, online: bool = True, **changes: Any) -> Path:
    params = load_params(PARAMS).data.model_copy(update={"name": "hub", "repository": "owner/set"} | changes)
    with serve_hub(folder) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", address if online else "http://127.0.0.1:9")
        return fetch_repository(params)


def names(found: Path) -> list[str]:
    return sorted(path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file())


def test_data_and_card_are_fetched_and_code_is_not(tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", FILES)
    found = fetch(tmp_path)
    assert names(found) == ["README.md", "data/test.csv", "data/train.csv"]
    assert found.name == COMMIT


@pytest.mark.parametrize("files", ["data/te*", "test.csv"])
def test_data_files_chooses_by_path_or_name(files: str, tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", FILES)
    assert names(fetch(tmp_path, files=files)) == ["README.md", "data/test.csv"]


def test_what_was_fetched_is_used_without_a_network(tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", FILES)
    assert fetch(tmp_path) == fetch(tmp_path, online=False)


def test_a_data_set_that_is_a_script_is_read_from_the_hubs_parquet_copy(tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", {"set.py": "code", "README.md": "card", "a.json": "{}", "LICENSE.txt": "x"})
    write_files(tmp_path / "hub/owner/set.converted", {"default/test/0000.parquet": "x"})
    assert names(fetch(tmp_path)) == ["default/test/0000.parquet"]


@pytest.mark.parametrize(("table", "changes"), [("all.json", {}), ("a.txt", {}), ("all.json", {"files": "*.json"})])
def test_a_table_in_json_beside_images_is_no_script(table: str, changes: dict[str, Any], tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", {table: "x", "README.md": "card", "a.jpg": "x"})
    found = names(fetch(tmp_path, **changes))
    assert table in found and ("a.jpg" in found) == (not changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"repository": "owner/none"}, "data.repository = 'owner/none': cannot be fetched from the Hugging Face hub"),
        ({"repository": "no repository"}, "data.repository = 'no repository': cannot be fetched"),
        ({"online": False}, "data.repository = 'owner/set': cannot be fetched from the Hugging Face hub"),
    ],
)
def test_what_cannot_be_had_is_named(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", FILES)
    with pytest.raises(InputError) as refused:
        fetch(tmp_path, **changes)
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


def test_more_than_the_limit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    write_files(tmp_path / "hub/owner/set", {"a.csv": "x" * 3000})
    limits = load_params(PARAMS).data.limits.model_copy(update={"unpacked_gb": 1e-6})
    with pytest.raises(InputError, match=r"GiB to fetch, at most 1e-06 are allowed; choose files by data\.files"):
        fetch(tmp_path, limits=limits)
    assert not list(tmp_path.rglob("cache/**/a.csv"))
