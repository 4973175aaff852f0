"""Convert files from outside in a child process: the only way from a foreign pickle to tensors and JSON."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pipeline.errors import InputError, printable

CONVERTER = "pipeline.models.foreign.convert"
ROOT = Path(__file__).parents[3]
MEMORY_BYTES = 1 << 29  # for any file, in addition to the interpreter and its libraries
COPIES = 4  # plus this many times the file's size: its content, the tensors, their copies, the output
SECONDS = 30  # of processor time, for any file
SECONDS_PER_GIB = 30
WAIT_S = 600  # of wall-clock time: a disk or a network may be slow
MOST_CHARACTERS = 300


@contextmanager
def converted(kind: Literal["checkpoint", "bank"], path: Path) -> Iterator[Path]:
    """Yield a temporary folder with the output of the converter for `path`; see `convert.py` for its files.

    Raises:
        InputError: naming the file, when it is missing, refused, damaged, or exceeds a limit of memory or time.
    """
    if not path.is_file():
        raise InputError(f"{path}: not found")
    size_bytes = path.stat().st_size
    memory_bytes = MEMORY_BYTES + COPIES * size_bytes
    seconds = SECONDS + SECONDS_PER_GIB * size_bytes // (1 << 30)
    with TemporaryDirectory(prefix="converted-") as name:
        command = [sys.executable, "-m", CONVERTER, kind, str(path.resolve()), name, str(memory_bytes), str(seconds)]
        said = Path(name, "stderr")
        try:
            with open(said, "wb") as stderr:
                status = subprocess.run(
                    command,
                    cwd=ROOT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},  # each thread takes address space
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    timeout=WAIT_S,
                    check=False,
                ).returncode
        except subprocess.TimeoutExpired:
            raise InputError(f"{path}: not read: it took longer than {WAIT_S} s") from None
        if status != 0:
            last = said.read_text(errors="replace").strip().rpartition("\n")[2]
            raise InputError(f"{path}: not read: {_reason(status, last, seconds)}")
        yield Path(name)


def _reason(status: int, last: str, seconds: int) -> str:
    if -status in (signal.SIGXCPU, signal.SIGKILL):
        return f"it took more than {seconds} s of a processor, or all memory"
    if status < 0:
        return f"its reader was ended by {signal.Signals(-status).name}: damaged, or made to do harm"
    return printable(last[:MOST_CHARACTERS]) or "its reader failed without a word"
