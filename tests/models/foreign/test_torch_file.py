"""What `torch.save` writes is read; what asks for more memory or time than the file has is refused before it gets any.

Each hostile pickle is tried as the archive that torch writes today and in the layout of before torch 1.6.
"""

from __future__ import annotations

import argparse
import copy
import io
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from pipeline.errors import InputError
from pipeline.models.foreign import torch_file
from pipeline.models.foreign.checkpoints import read_checkpoint
from pipeline.training.checkpoint import Checkpoint
from tests.faults.guard import bounded

PRIME = (1 << 61) - 1
"""Python hashes a whole number modulo this one."""


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def number(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def storage(key: str = "0", numbers: int = 4) -> bytes:
    """A storage of float32."""
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numbers) + b"tQ"


def tensor(stored: bytes, size: int) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + b"K\0" + number(size) + b"\x85K\1\x85\x89}tR"


ENCODE = b"c_codecs\nencode\n"
HOSTILE = {
    "a bytearray of a length": (b"cbuiltins\nbytearray\n" + number(2 * 10**9) + b"\x85R", "builtins.bytearray"),
    "a tensor of a size": (b"ctorch\nFloatTensor\n" + number(10**9) + b"\x85R", "torch.FloatTensor"),
    "bytes encoded over and over": (
        ENCODE + text("a" * 8) + text("latin1") + b"\x86Rq\1" + (ENCODE + b"h\1" + text("hex") + b"\x86Rq\1") * 28,
        "encodes a text",
    ),
    "a text encoded a thousand times": (
        b"]" + text("a" * 2**20) + b"q\1" + (ENCODE + b"h\1" + text("latin1") + b"\x86R") * 1500,
        "copies more than",
    ),
    "a dict copied a thousand times": (
        b"}("
        + b"".join(text(str(key)) + b"N" for key in range(2**14))
        + b"uq\1]("
        + b"ccollections\nCounter\nh\1\x85R" * 1500
        + b"e",
        "copies more than",
    ),
    "numbers that collide as keys": (
        b"}(" + b"".join(number(key * PRIME) + b"N" for key in range(1, 60_000)) + b"u",
        "more than 64 bits",
    ),
    "a key that is a tuple": (b"}K\1\x85Ns", "neither a text nor a whole number"),
    "a numpy type of a length": (
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n" + text("S2000000000") + b"\x89\x88\x87R\x85R",
        "no plain number",
    ),
    "a storage that the file cannot hold": (tensor(storage(numbers=2 * 10**9), 1), "more numbers than it holds"),
    "a tensor larger than its storage": (tensor(storage(), 2 * 10**9), "more numbers than its storage"),
    "more dicts than a checkpoint has": (b"](" + b"}" * 2**24 + b"e", "more than 800000 steps"),
    "more calls than a checkpoint has": (
        b"](ccollections\nOrderedDict\nq\1" + b"h\1)R" * 60_000 + b"e",
        "too often",
    ),
    "a step that torch does not write": (b"\x8f", "EMPTY_SET"),
}


def archived(
    path: Path, pickle: bytes, method: int = zipfile.ZIP_STORED, more: Mapping[str, bytes] | None = None
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {
            "data.pkl": pickle,
            "version": b"3\n",
            "byteorder": b"little",
            "data/0": b"\0" * 16,
            **(more or {}),
        }.items():
            archive.writestr(f"archive/{name}", content)
    return path


def of_before_1_6(path: Path, pickle: bytes) -> Path:
    written = io.BytesIO()
    torch.save({}, written, _use_new_zipfile_serialization=False)
    whole, empty = written.getvalue(), b"\x80\x02}q\x00.\x80\x02]q\x00."
    assert whole.endswith(empty)
    pickle = pickle.replace(b"tQ", b"NtQ")  # a storage was told of with what it is a view of: nothing
    keys = b"\x80\x02]" + text("0") + b"a."
    path.write_bytes(whole.removesuffix(empty) + pickle + keys + struct.pack("<Q", 4) + b"\0" * 16)
    return path


@pytest.mark.parametrize("layout", [archived, of_before_1_6])
@pytest.mark.parametrize(("pickle", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_costs_more_than_the_file_has_is_refused(
    pickle: bytes, said: str, layout: Callable[[Path, bytes], Path], tmp_path: Path
) -> None:
    path = layout(tmp_path / "state.pt", b"\x80\x02" + pickle + b".")
    with pytest.raises(InputError, match=rf"state\.pt: not read: .*{said}"), bounded():
        read_checkpoint(path)
    with pytest.raises(InputError, match=r"state\.pt: not a readable checkpoint"), bounded():
        Checkpoint(tmp_path).load()


@pytest.mark.parametrize("layout", [archived, of_before_1_6])
def test_what_is_built_like_these_and_costs_nothing_is_read(
    layout: Callable[[Path, bytes], Path], tmp_path: Path
) -> None:
    path = layout(tmp_path / "state.pt", b"\x80\x02}" + text("a") + tensor(storage(), 4) + b"s.")
    assert torch.equal(read_checkpoint(path)["a"], torch.zeros(4))


@pytest.mark.parametrize("before_1_6", [False, True])
def test_all_that_a_checkpoint_holds_is_read(before_1_6: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimiser.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2, 2, 5])
    wide = torch.rand(4, 6)
    state: dict[str, Any] = {
        "model": [model.state_dict()],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "optimiser": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "views": [wide.T, wide[:, 2:4], wide[1].expand(3, 6), torch.zeros(0, 3), torch.tensor(3)],
        "kinds": [
            torch.ones(2, dtype=kind) for kind in (torch.bfloat16, torch.half, torch.bool, torch.uint8, torch.complex64)
        ],
        "plain": {
            "epoch": 3,
            "seed": (1 << 64) - 1,
            "low": -(1 << 63),
            "name": "é",
            "none": None,
            "pair": (1, 2.5, True),
        },
        "numpy": [numpy.float64(1.5), numpy.float32(2), numpy.int64(-3), numpy.bool_(True)],
        "opt": argparse.Namespace(milestones=[5, 15], device=torch.device("cpu"), size=torch.Size([2, 3])),
        "kind": torch.float32,
        "bytes": b"\0\xff",
        "counter": Counter("aab"),
    }
    torch.save(state, tmp_path / "state.pt", _use_new_zipfile_serialization=not before_1_6)
    found = read_checkpoint(tmp_path / "state.pt")
    assert list(found) == list(state)
    assert all(map(torch.equal, found["views"], state["views"]))
    assert all(map(torch.equal, found["kinds"], state["kinds"]))
    plain = ("plain", "numpy", "opt", "kind", "bytes", "counter", "scheduler")
    assert {name: found[name] for name in plain} == {name: state[name] for name in plain}
    assert found["model"][0]._metadata == state["model"][0]._metadata
    model.load_state_dict(found["model"][0])
    optimiser.load_state_dict(found["optimiser"])


def test_a_large_training_is_within_the_bounds(tmp_path: Path) -> None:
    """CLIP's largest with a momentum tower and two moments of Adam has 2 400 tensors, 500 epochs 5 000 records."""
    names = [f"similarity/{number}" for number in range(25)]
    history = [{name: float(row) for name in names} for row in range(5000)]
    torch.save({"model": [torch.ones(1) for _ in range(10_000)], "history": history}, tmp_path / "state.pt")
    assert read_checkpoint(tmp_path / "state.pt")["history"] == history


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = archived(tmp_path / "state.pt", b"\x80\x02}.", zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"state\.pt: not read: .*compressed"):
        read_checkpoint(path)


def test_members_that_share_their_content_are_refused(tmp_path: Path) -> None:
    path = archived(tmp_path / "state.pt", b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/1", b"\0" * 10_000)
        for key in range(2, 1000):
            again = copy.copy(archive.getinfo("archive/data/1"))
            again.filename = f"archive/data/{key}"
            archive.filelist.append(again)
    with pytest.raises(InputError, match=r"state\.pt: not read: .*longer together than the file"):
        read_checkpoint(path)


def test_a_storage_whose_name_torch_would_find_under_many_names_is_refused(tmp_path: Path) -> None:
    """Torch does not tell capitals from small letters: one member would be read as often as it has spellings."""
    path = archived(
        tmp_path / "state.pt", b"\x80\x02}" + text("a") + tensor(storage("A"), 4) + b"s.", more={"data/a": b"\0" * 16}
    )
    with pytest.raises(InputError, match=r"state\.pt: not read: .*storage that torch\.save does not write"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("bound", "said"), [("MOST_PICKLED", "pickle is longer"), ("MOST_LISTED", "directory is longer")]
)
def test_a_pickle_or_a_directory_that_is_too_long_is_refused(
    bound: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archived(tmp_path / "state.pt", b"\x80\x02}.")
    monkeypatch.setattr(torch_file, bound, 3)
    with pytest.raises(InputError, match=said):
        read_checkpoint(path)


def test_an_archive_with_a_second_directory_is_refused(tmp_path: Path) -> None:
    """The locator names the one that torch reads; zipfile reads the one just before it."""
    path = tmp_path / "state.pt"
    torch.save({"a": 1}, path)
    content = path.read_bytes()
    body, locator, end = content[:-42], content[-42:-22], content[-22:]
    length, start = struct.unpack("<QQ", body[-16:])
    second = body[start : start + length] + body[-56:-16] + struct.pack("<QQ", length, len(body))
    path.write_bytes(body + second + locator + end)
    assert zipfile.ZipFile(path).start_dir == len(body)
    assert torch.load(path, weights_only=True) == {"a": 1}
    with pytest.raises(InputError, match=r"state\.pt: not read: .*last bytes of an archive"):
        read_checkpoint(path)
