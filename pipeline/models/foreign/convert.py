"""The converter: reads one file from outside as data, in a process with limits, and writes safetensors and JSON.

    python -m pipeline.models.foreign.convert checkpoint|bank SOURCE FOLDER MEMORY_BYTES SECONDS

`conversion.py` runs it; it is never imported. A pickle is a program: it names functions, which its reader calls. Here
only those of `STAND_INS` are allowed and, in a checkpoint, those that `torch.load(weights_only=True)` allows. numpy's
own functions are not allowed: with `dtype.__setstate__` a file can turn any bytes into pointers to objects.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import resource
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Any

RECORDED = ("epoch", "best_rsum", "Eiters", "name")
MOST_CHARACTERS = 200
STATM = Path("/proc/self/statm")
FORMATS = {  # numpy's codes of plain numbers, and struct's
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d"},
}


class _Type:
    """Replaces `numpy.dtype`: a code such as "i8" and a byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def number(self, raw: bytes) -> float:
        """The number in `raw`; replaces the function that rebuilds a numpy scalar."""
        try:
            return struct.unpack(self.order + FORMATS[self.code], raw)[0]
        except (KeyError, struct.error):
            raise ValueError(f"{len(raw)} bytes for one number of type {self.code!r}") from None


class _Array:
    """Replaces `numpy.ndarray` and the function that rebuilds one: an array of a single element."""

    def __init__(self, *_: object) -> None:
        self.value: object = None

    def __setstate__(self, state: Any) -> None:
        *_, kind, _, content = state
        if isinstance(content, list) and len(content) != 1:
            raise ValueError(f"an array of {len(content)} values in the place of one")
        self.value = content[0] if isinstance(content, list) else kind.number(content)


class _Namespace:
    """Replaces `argparse.Namespace` (FNE's options), which is not used."""

    def __setstate__(self, state: object) -> None:
        pass


STAND_INS: dict[str, Any] = {
    "argparse.Namespace": _Namespace,
    "numpy.dtype": _Type,
    "numpy.ndarray": _Array,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},  # numpy 1 and 2
    **{f"numpy.{core}.multiarray.scalar": _Type.number for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused") from None


def convert_bank(source: Path, folder: Path) -> None:
    """Write `bank.json`, {key: value}, from a dict saved by `numpy.save`; keys that are numbers become strings."""
    from numpy.lib import format as npy

    with open(source, "rb") as file:
        read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        read_header(file)
        array = _Unpickler(file).load()
        if file.read(1):
            raise ValueError("something follows the dict")
    content = array.value if isinstance(array, _Array) else array
    if not isinstance(content, dict) or not all(isinstance(key, str | int) for key in content):
        raise ValueError(f"found {type(content).__name__}, expected a dict whose keys are texts or whole numbers")
    entries = {str(key): value.value if isinstance(value, _Array) else value for key, value in content.items()}
    if len(entries) < len(content):
        raise ValueError("a key stands there twice, as a text and as a number")
    (folder / "bank.json").write_text(json.dumps(entries))


def convert_checkpoint(source: Path, folder: Path) -> None:
    """Write `weights.safetensors` (the state dict) and `record.json` (the checkpoint's other values, and its keys).

    A checkpoint without a known state dict gives no weights.
    """
    import torch
    from safetensors.torch import save_file

    with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in STAND_INS.items()]):
        content = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"expected a checkpoint's dict, found {type(content).__name__}")
    state: Any = content.get("model", content.get("state_dict", content))
    if isinstance(state, list) and len(state) == 1:
        state = state[0]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        state = {}
    # copied: a file can hold many views of one storage, and views that repeat elements
    copies = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    save_file(copies, folder / "weights.safetensors")
    record = {key: _plain(content[key]) for key in RECORDED if _plain(content.get(key)) is not None}
    keys = [str(key)[:MOST_CHARACTERS] for key in [*content][:5]]
    (folder / "record.json").write_text(json.dumps({"record": record, "keys": keys}))


def _plain(value: Any) -> float | str | None:
    """A number, a number in a tensor, or the beginning of a text; None for anything else."""
    value = value.item() if hasattr(value, "numel") and value.numel() == 1 else value
    if isinstance(value, str):
        return value[:MOST_CHARACTERS]
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def limit(memory_bytes: int, seconds: int) -> None:
    """Limit additional memory and processor time from now on, and disable core dumps."""
    limits = [
        (resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ]
    if STATM.exists():  # Linux; on other systems the memory has no limit
        used_bytes = int(STATM.read_text().split()[0]) * resource.getpagesize()
        limits.append((resource.RLIMIT_AS, used_bytes + memory_bytes))
    for kind, most in limits:
        _, hard = resource.getrlimit(kind)  # it may only be lowered
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (lower, lower))


def reason(error: Exception, expected: str) -> str:
    """The error as one line, without torch's long advice to switch off its safety."""
    said = " ".join(str(error).split()) or type(error).__name__
    if found := re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", said):
        return f"it asks for {found[1]}, which is refused; only weights and plain values are read"
    if said.startswith("it asks for") or "No space left" in said:  # the latter is not an error of the file
        return said
    if isinstance(error, MemoryError) or "allocate memory" in said:
        return "it asks for more memory than a file of its length needs"
    if "TorchScript" in said:
        return "a TorchScript archive, which is a program; save its state_dict() by torch.save, and give that"
    said = said.rpartition("WeightsUnpickler error: ")[2].split(". ")[0]
    return f"cut off, or not {expected} ({said})"


def main() -> None:
    """Convert, or print the error as one line on stderr and exit with status 1."""
    kind, source, folder, memory_bytes, seconds = sys.argv[1:]
    warnings.simplefilter("ignore")
    if kind == "checkpoint":
        import safetensors.torch  # noqa: F401  # before the limits: libraries take gigabytes of address space
    convert, expected = {
        "bank": (convert_bank, "a dict of whole numbers as numpy.save writes it"),
        "checkpoint": (convert_checkpoint, "what torch.save writes of weights and plain values"),
    }[kind]
    limit(int(memory_bytes), int(seconds))
    try:
        convert(Path(source), Path(folder))
    except Exception as error:  # a damaged or hostile file can raise any type
        sys.exit(reason(error, expected))


if __name__ == "__main__":
    main()
