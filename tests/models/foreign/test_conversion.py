"""Files from outside are read as data: nothing in them runs, and they take neither memory, time nor the terminal."""

from __future__ import annotations

import argparse
import io
import os
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy
import pytest
import torch
from safetensors import SafetensorError

from pipeline.bank.published import read_bank
from pipeline.errors import InputError
from pipeline.models.foreign import conversion
from pipeline.models.foreign.checkpoints import read_checkpoint
from pipeline.models.foreign.convert import reason

pytestmark = pytest.mark.end_to_end  # each file is read by an interpreter of its own

Kind = Literal["bank", "checkpoint"]
READERS: dict[Kind, Callable[[Path], object]] = {"bank": read_bank, "checkpoint": read_checkpoint}
PRIME = (1 << 61) - 1
"""Python hashes a whole number modulo this one."""


class Runs:
    """What a pickle can do: this one creates a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def number(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


def bank(path: Path, program: bytes) -> Path:
    """A file with numpy's own header of a dict, and any pickle after it."""
    header = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header.getvalue() + program)
    return path


def checkpoint(path: Path, program: bytes) -> Path:
    """As torch writes one today."""
    members = {"data.pkl": program, "version": b"3\n", "byteorder": b"little", "data/0": bytes(16)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def old_checkpoint(path: Path, program: bytes) -> Path:
    """As torch wrote one before 1.6."""
    written = io.BytesIO()
    torch.save({}, written, _use_new_zipfile_serialization=False)
    empty = b"\x80\x02}q\x00.\x80\x02]q\x00."
    assert written.getvalue().endswith(empty)
    path.write_bytes(written.getvalue().removesuffix(empty) + program + b"\x80\x02].")
    return path


COLLIDING = b"}(" + b"".join(number(key * PRIME) + b"N" for key in range(1, 60_000)) + b"u"
MEMORY, TIME = "asks for more memory", "took more than 2 s of a processor"
HOSTILE: dict[str, tuple[Callable[[Path, bytes], Path], bytes, str]] = {
    "bank: a function of another step": (bank, b"(Vx\nios\nsystem\n", r"os\.system, which is refused"),
    "bank: one of numpy's": (bank, b"cnumpy\nload\n(Vx\ntR", r"numpy\.load, which is refused"),
    "bank: what a class has": (bank, b"\x8c\x05numpy\x8c\x0fdtype.__class__\x93", "__class__, which is refused"),
    "bank: a name for the terminal": (bank, b"c\x1b]0;mine\x07\nx\n", r"asks for \\x1b\]0;mine\\x07\.x, which"),
    "bank: a place in a table": (bank, b"}r\xff\xff\xff\x7f", MEMORY),
    "bank: keys that collide": (bank, COLLIDING, TIME),
    "a tensor of a size": (checkpoint, b"ctorch\nFloatTensor\n" + number(10**9) + b"\x85R", MEMORY),
    "before 1.6: a bytearray of a length": (
        old_checkpoint,
        b"cbuiltins\nbytearray\n" + number(2 * 10**9) + b"\x85R",
        MEMORY,
    ),
}


@pytest.mark.parametrize(("layout", "program", "said"), HOSTILE.values(), ids=HOSTILE)
def test_what_would_run_or_take_memory_or_time_is_refused(
    layout: Callable[[Path, bytes], Path],
    program: bytes,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(conversion, "SECONDS", 2)
    path = layout(tmp_path / "foreign", (b"\x80\x05" if layout is bank else b"\x80\x02") + program + b".")
    with pytest.raises(InputError, match=rf"foreign: not read: .*({said})") as refusal:
        READERS["bank" if layout is bank else "checkpoint"](path)
    assert str(refusal.value).isprintable()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["bank", "checkpoint", "before 1.6"])
def test_a_file_that_would_run_something_does_not(kind: str, tmp_path: Path) -> None:
    created, path = tmp_path / "created", tmp_path / "best"
    if kind == "bank":
        numpy.save(tmp_path / "best.npy", numpy.array({"a": Runs(created)}))
        path = tmp_path / "best.npy"
    else:
        content = {"state_dict": {}, "opt": argparse.Namespace(x=Runs(created))}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "checkpoint")
    with pytest.raises(InputError, match=r"best.*mkdir, which is refused"):
        READERS["bank" if kind == "bank" else "checkpoint"](path)
    assert not created.exists()
    numpy.load(path, allow_pickle=True) if kind == "bank" else torch.load(path, weights_only=False)
    assert created.exists()  # it would have


def test_a_type_of_numpys_is_none_in_which_a_file_can_forge_objects(tmp_path: Path) -> None:
    """numpy takes these bytes for a pointer to an object, if the type's flags deny that it holds objects."""
    forged = numpy.dtype("O", copy=True)
    forged.__setstate__((3, "|", None, None, None, -1, -1, 0))  # type: ignore[attr-defined]
    assert numpy.ndarray((1,), forged, bytes(8)).dtype == object  # a null pointer
    kind = b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R(K\3" + text("|") + b"NNN" + number(-1) * 2 + b"K\0tb"
    array = b"cnumpy._core.multiarray\n_reconstruct\n)R(K\1K\1\x85" + kind + b"\x89C\x08" + bytes(8) + b"tb"
    with pytest.raises(InputError, match="8 bytes for one number of type 'O8'"):
        read_bank(bank(tmp_path / "bank.npy", b"\x80\x05" + array + b"."))


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(1 << 40), torch.zeros(1 << 40, device="meta")], ids=["repeated", "nowhere"]
)
def test_a_tensor_of_more_numbers_than_the_file_holds_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"state_dict": {"visual.conv1.weight": tensor}}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: not read: "):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_cut_off_or_missing_is_refused(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "best.npy"
    with pytest.raises(InputError, match=r"best\.npy: not found"):
        READERS[kind](path)
    if kind == "bank":
        numpy.save(path, numpy.array({"a": 1}))
    else:
        with open(path, "wb") as handle:
            torch.save({"state_dict": {"a": torch.ones(1000)}}, handle)
    whole = path.read_bytes()
    for share in (0.0, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"best\.npy: not read: cut off"):
            READERS[kind](path)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", "its reader was ended by SIGABRT: damaged, or made to do harm"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "it took more than 30 s of a processor, or all memory"),
        ("time.sleep(60)", "it took longer than 1 s"),
        ("sys.exit(1)", "its reader failed without a word"),
        ("print('x' * 1000, '\\x1b', file=sys.stderr); print('lost'); sys.exit('\\x1b[31m')", r"\x1b[31m"),
    ],
)
def test_whatever_ends_the_reader_is_one_error(
    does: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reader.py").write_text(f"import os, signal, sys, time\n{does}\n")
    numpy.save(tmp_path / "bank.npy", numpy.array({"a": 1}))
    monkeypatch.setattr(conversion, "ROOT", tmp_path)
    monkeypatch.setattr(conversion, "CONVERTER", "reader")
    if "sleep" in does:
        monkeypatch.setattr(conversion, "WAIT_S", 1)
    with pytest.raises(InputError) as refusal:
        read_bank(tmp_path / "bank.npy")
    assert str(refusal.value) == f"{tmp_path / 'bank.npy'}: not read: {said}"
    assert capfd.readouterr() == ("", "")


def limited(statement: str) -> subprocess.CompletedProcess[str]:
    """Run a statement within limits of the converter's: 64 MiB and a second."""
    program = f"import resource\nfrom pipeline.models.foreign.convert import limit\nlimit(1 << 26, 1)\n{statement}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=conversion.ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_limits_hold(tmp_path: Path) -> None:
    assert limited("bytearray(1 << 24)").returncode == 0
    assert "MemoryError" in limited("bytearray(1 << 27)").stderr
    assert limited("while True: pass").returncode == -signal.SIGKILL
    write = f"f = open({str(tmp_path / 'large')!r}, 'wb')\nfor _ in range(9): f.write(bytes(1 << 23))"
    assert "File too large" in limited(write).stderr
    for name in ("AS", "CPU", "FSIZE", "CORE"):
        assert "not allowed to raise" in limited(f"resource.setrlimit(resource.RLIMIT_{name}, (-1, -1))").stderr


def test_a_disk_without_room_is_no_fault_of_the_files() -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert reason(SafetensorError(said), "a bank") == said
