"""The one writer of files: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.errors import InputError
from pipeline.files import (
    CHUNK_BYTES,
    atomic_folder,
    atomic_path,
    digest_of,
    main_root,
    move_folder,
    read_json,
    read_record,
    sha256,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)

ROOT = Path(__file__).parent.parent


class Interrupted(Exception):
    """What happens in the middle of a write."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_was_written_takes_the_old_ones_place(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "figures.txt"
    for content in ("old", "new"):
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            temporary.write_text(content)
    assert target.read_text() == "new"
    assert names(target.parent) == ["figures.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "figures.txt"
    target.write_text("old")
    with pytest.raises(Interrupted), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise Interrupted
    assert target.read_text() == "old"
    assert names(tmp_path) == ["figures.txt"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), atomic_path(tmp_path / "figures.txt") as temporary:
        temporary.write_text("half")
        raise Interrupted
    assert names(tmp_path) == []


def test_a_linked_output_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("in the cache")
    (tmp_path / "soft").symlink_to(cached)
    (tmp_path / "hard").hardlink_to(cached)
    for name in ("soft", "hard"):
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"
    assert cached.read_text() == "in the cache"


def test_a_folder_takes_the_old_ones_place_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_folder(target) as temporary:
            assert names(temporary) == []
            (temporary / content).write_text(content)
    assert names(target) == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_folder_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(Interrupted), atomic_folder(target) as temporary:
        (temporary / "new").write_text("half")
        raise Interrupted
    assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]


KILLED_BETWEEN = """
import os, sys
from pipeline.files import atomic_folder
replace, renamed = os.replace, []
def killed(*paths):
    if renamed:
        os.kill(os.getpid(), 9)
    renamed.append(paths)
    replace(*paths)
os.replace = killed
with atomic_folder(sys.argv[1]) as folder:
    (folder / "new").write_text("new")
"""


@pytest.fixture
def left_between(tmp_path: Path) -> Path:
    """A folder `model` as a kill between the two renames leaves it: under neither name."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").write_text("old")
    command = [sys.executable, "-c", KILLED_BETWEEN, str(tmp_path / "model")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert {Path(name).suffix for name in names(tmp_path)} == {
        ".old",
        ".part",
    }  # their names begin with process numbers
    return tmp_path / "model"


def test_a_folder_whose_writer_was_killed_between_two_renames_is_replaced_by_the_next(left_between: Path) -> None:
    with atomic_folder(left_between) as temporary:
        (temporary / "newer").write_text("newer")
    assert names(left_between) == ["newer"]
    assert names(left_between.parent) == ["model"]


def test_a_folder_whose_writer_was_killed_between_two_renames_is_back_though_the_next_fails(
    left_between: Path,
) -> None:
    with pytest.raises(Interrupted), atomic_folder(left_between):
        raise Interrupted
    assert names(left_between) == ["old"]
    assert names(left_between.parent) == ["model"]


def test_a_signal_between_two_renames_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    replace = os.replace

    def interrupted(source: Path, place: Path) -> None:
        if source.suffix == ".part":
            raise Interrupted
        replace(source, place)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(Interrupted), atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("number", [0x7FFFFFFF, 10**20 - 1])
@pytest.mark.parametrize("end", ["part", "0a1b.old"])
def test_what_a_process_that_is_no_more_left_is_removed_whatever_its_number(
    number: int, end: str, tmp_path: Path
) -> None:
    write_text(tmp_path / "out", "old")
    (tmp_path / f".out.{number}.{end}").write_text("half")
    write_text(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_gives_way_to_a_folder_and_what_it_leads_to_stays(there: bool, tmp_path: Path) -> None:
    cached, target = tmp_path / "cache/model", tmp_path / "out/model"
    target.parent.mkdir()
    if there:
        cached.mkdir(parents=True)
        (cached / "old").write_text("old")
    target.symlink_to(cached)
    with atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")
    assert not target.is_symlink()
    assert names(target) == ["new"]
    assert names(target.parent) == ["model"]
    if there:
        assert names(cached) == ["old"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_a_kill_left_aside_is_removed_or_put_back(there: bool, tmp_path: Path) -> None:
    (tmp_path / "cached").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / f"out/.model.{0x7FFFFFFF}.0a1b.old").symlink_to(tmp_path / "cached")
    if there:
        (tmp_path / "out/model").mkdir()
    with pytest.raises(Interrupted), atomic_folder(tmp_path / "out/model"):
        raise Interrupted
    assert names(tmp_path / "out") == ["model"]
    assert (tmp_path / "out/model").is_symlink() != there
    assert (tmp_path / "cached").is_dir()


def put_on_another_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a rename of `folder` fail as between two disks."""
    replace = os.replace

    def far(source: Path, place: Path) -> None:
        if source == folder:
            raise OSError(errno.EXDEV, "another disk")
        replace(source, place)

    monkeypatch.setattr(os, "replace", far)


@pytest.mark.parametrize("other_disk", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_a_folder_moves_in_the_place_of_another(
    other_disk: bool, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, target = tmp_path / "work/made", tmp_path / "out/model"
    (made / "part").mkdir(parents=True)
    (made / "part/new").write_text("new")
    if before:
        target.mkdir(parents=True)
        (target / "old").write_text("old")
    if other_disk:
        put_on_another_disk(made, monkeypatch)
    move_folder(made, target)
    assert names(target) == ["part"]
    assert (target / "part/new").read_text() == "new"
    assert names(tmp_path / "out") == ["model"]
    assert names(tmp_path / "work") == []


def test_a_folder_half_copied_from_another_disk_has_no_name_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, target = tmp_path / "work/made", tmp_path / "out/model"
    for folder, name in ((made, "new"), (target, "old")):
        folder.mkdir(parents=True)
        (folder / name).write_text(name)

    def interrupted(*_paths: Path, **_options: Any) -> None:
        raise Interrupted

    put_on_another_disk(made, monkeypatch)
    monkeypatch.setattr("shutil.copytree", interrupted)
    with pytest.raises(Interrupted):
        move_folder(made, target)
    assert names(target) == ["old"]
    assert names(made) == ["new"]


def test_what_is_renamed_is_on_the_disk_before_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as can be told without cutting the power: who is synced, and when."""
    told: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        told.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).suffix or 'folder'}")
        sync(handle)

    def renamed(source: Path, place: Path) -> None:
        told.append("rename")
        replace(source, place)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "a.txt", "a")
    assert told == ["sync .part", "rename", "sync folder"]
    told.clear()
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "a.csv").write_text("a")
    assert sorted(told[:2]) == ["sync .csv", "sync .part"]
    assert told[2:] == ["rename", "sync folder"]


def test_an_output_folder_is_readable_like_any_other(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_text_is_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\n→\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n\xe2\x86\x92\n"


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"R@1": 12.5, "names": ["é", None], "nested": {"deep": True}}
    write_json(tmp_path / "a.json", value)
    content = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(content) == value
    assert content.endswith("}\n")
    assert "é" in content


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_neither_nan_nor_infinity_and_the_old_file_stays(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"loss": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1}


def test_tensors_come_back_whatever_their_layout(tmp_path: Path) -> None:
    wide = torch.rand(4, 6)
    tensors = {"plain": torch.arange(5), "turned": wide.T, "part": wide[:, 2:4], "half": wide.to(torch.bfloat16)}
    path = tmp_path / "weights.safetensors"
    write_tensors(path, tensors, {"made by": "a test"})
    loaded = load_file(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name
    with safe_open(path, "pt") as handle:
        assert handle.metadata() == {"made by": "a test"}
    assert names(tmp_path) == ["weights.safetensors"]


@pytest.mark.parametrize("size", [0, 10, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_files_digest_is_its_contents(tmp_path: Path, size: int) -> None:
    content = b"x" * size
    write_bytes(tmp_path / "a", content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_digest_of_values_sees_every_value_and_no_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert len({digest_of(), digest_of(1), digest_of("1"), digest_of([1]), digest_of(1, 2), digest_of([1, 2])}) == 6


def test_the_main_root_is_the_one_dvc_names_or_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert main_root() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "elsewhere"))
    assert main_root() == tmp_path.resolve() / "elsewhere"


def test_half_files_of_processes_that_are_no_more_are_swept(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = [tmp_path / f".out.{gone.stdout.decode().strip()}.part", tmp_path / f".out.{os.getppid()}.part"]
    other = tmp_path / f".another{left[0].name.removeprefix('.out')}"
    for path in (*left, other):
        path.write_text("half")
    write_text(tmp_path / "out", "whole")
    assert not left[0].exists()
    assert left[1].exists(), "its process is still writing"
    assert other.exists(), "another output's"
    folder = tmp_path / left[0].name.replace(".part", ".x1_y.part").replace(".out", ".folder")
    folder.mkdir()
    with atomic_folder(tmp_path / "folder") as made:
        (made / "file").write_text("whole")
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[" * 100_000, b"\xff", b"9" * 5000])
def test_what_is_no_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not readable as JSON"):
        read_json(tmp_path / "a.json")


def test_a_record_that_is_missing_or_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: not found; `dvc repro split` makes it"):
        read_record(tmp_path / "a.json", "split")
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(InputError, match=r"a\.json: expected an object, found list"):
        read_record(tmp_path / "a.json", "split")
