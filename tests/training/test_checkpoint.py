"""Checkpoints: replaced as a whole, and nothing in them is run."""

from __future__ import annotations

import errno
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import InputError
from pipeline.training.checkpoint import SHARE_OF_TIME, SHORTEST_PAUSE, Checkpoint
from tests.training.test_resume import Clock


class CreatesAFile:
    """What an attacker would pickle: loading it as a pickle creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


class FailsHalfWay:
    """What a full disk does."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        raise OSError(errno.ENOSPC, "no space left on device")


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "model": {"weight": torch.rand(3, 2), "ids": torch.arange(4)},
        "progress": {"epoch": 3, "best_rsum": 1.5, "history": [{"step": 1, "val/rsum": 2.0}], "best": {}},
        "generator": torch.get_rng_state(),
        "sums": [torch.rand(4)],
    }
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(state)
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded["progress"] == state["progress"]
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])  # type: ignore[index]
    assert torch.equal(loaded["generator"], state["generator"])  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path).load() is None


def test_states_of_different_names_do_not_meet(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2}, "best")
    assert checkpoint.load() == {"step": 1}
    assert checkpoint.load("best") == {"step": 2}


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"step": 1})
    with pytest.raises(OSError, match="no space"):
        checkpoint.save({"step": 2, "weight": torch.rand(3), "then": FailsHalfWay()})
    assert checkpoint.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("written_by", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, written_by: str) -> None:
    victim = tmp_path / "created"
    state = {"model": CreatesAFile(victim)}
    with open(tmp_path / "state.pt", "wb") as handle:
        torch.save(state, handle) if written_by == "torch" else pickle.dump(state, handle)
    with pytest.raises(InputError, match=r"state\.pt: not a readable checkpoint .*delete it to start over") as refusal:
        Checkpoint(tmp_path).load()
    assert not victim.exists()
    assert "\n" not in str(refusal.value)
    assert "weights_only" not in str(refusal.value)  # torch's own message advises to run the code after all


def saved(state: object) -> bytes:
    content = BytesIO()
    torch.save(state, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"half a checkpoint", saved({"model": torch.zeros(1000)})[:2000], saved([1, 2])]
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.pt: not a readable checkpoint .* delete it to start over"):
        Checkpoint(tmp_path).load()


def test_it_is_due_after_a_pause(tmp_path: Path) -> None:
    clock = Clock()
    checkpoint = Checkpoint(tmp_path, clock)
    assert not checkpoint.due()
    clock.now += SHORTEST_PAUSE
    assert checkpoint.due()
    checkpoint.save({})
    assert not checkpoint.due()


def test_a_costly_one_is_due_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost = Clock(), 30.0
    checkpoint = Checkpoint(tmp_path, clock)
    save = torch.save

    def slow(*arguments: Any) -> None:
        clock.now += cost
        save(*arguments)

    monkeypatch.setattr(torch, "save", slow)
    checkpoint.save({})
    clock.now += cost / SHARE_OF_TIME - 1
    assert not checkpoint.due()
    clock.now += 1
    assert checkpoint.due()


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run")
    checkpoint.folder.mkdir()
    checkpoint.save({"step": 1})
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_killed_while_it_is_removed_it_holds_nothing_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "run")
    for name in ("state", "best"):
        checkpoint.save({"step": 1}, name)

    def killed(folder: Path, **_: object) -> None:
        (folder / "best.pt").unlink()  # what a folder lists first may go first
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        checkpoint.remove()
    again = Checkpoint(tmp_path / "run")
    assert not again.kept()
    assert again.load() is None
    again.save({"step": 2}, "best")
    again.remove()
    assert list(tmp_path.iterdir()) == []
