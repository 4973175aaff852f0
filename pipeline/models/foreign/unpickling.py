"""The one reader of a pickle: a dict of whole numbers that `numpy.save` wrote, as NPC publishes its memory banks.

A pickle is a program, and any function it names is called. Here it can name four of numpy's, and each is replaced by
a class of this module that keeps what it is given: neither numpy nor anything else runs on the file's word.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

from numpy.lib import format as npy

from pipeline.errors import InputError

MOST_BYTES = 256 << 20  # MS-COCO's 566 000 captions need a sixth of it
MOST_DIMENSIONS = 64  # numpy's own limit
_INTEGERS = tuple(kind + size for kind in "iu" for size in "1248")
_WIDEST = 1 << 63
# A bank has none of these. A bytearray is set aside whole before a byte of it is read, and what a set holds can be
# chosen to collide there, as the keys of a dict can.
_REFUSED = b"".join((pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET))


class _Type:
    """What stands in for `numpy.dtype`: a code such as "i8" and a byte order."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in (*_INTEGERS, "O8", "O"):
            raise pickle.UnpicklingError("its numbers are no whole numbers")
        self.code = code
        self.order: Literal["little", "big"] = "little"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = "big" if state[1] == ">" else "little"

    def number(self, raw: bytes) -> int:
        """The one number that `raw` holds."""
        if self.code not in _INTEGERS or len(raw) != int(self.code[1]):
            raise pickle.UnpicklingError(f"{len(raw)} bytes for one number of type {self.code!r}")
        return int.from_bytes(raw, self.order, signed=self.code[0] == "i")


class _Array:
    """What stands in for `numpy.ndarray` and the function that rebuilds one: an array of a single element."""

    def __init__(self, *_: object) -> None:
        self.value: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, _, content = state
        # no product: one of many numbers has as many digits
        if len(shape) > MOST_DIMENSIONS or any(side != 1 for side in shape):
            raise pickle.UnpicklingError("an array of several numbers in the place of one")
        self.value = content[0] if isinstance(content, list) else kind.number(content)


class _Scalar(_Array):
    """What stands in for the function that rebuilds a numpy scalar."""

    def __init__(self, kind: _Type, raw: bytes) -> None:
        self.value = kind.number(raw)


_STAND_INS = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")  # numpy 1 and 2
        for name, stand_in in (("_reconstruct", _Array), ("scalar", _Scalar))
    },
}


# The one written in Python: the one in C sets memory aside for whatever index a file of a few bytes names.
class _Unpickler(pickle._Unpickler):
    """Calls the four stand-ins and nothing else; numbers have 64 bits, and keys are texts, numbers or stand-ins."""

    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _REFUSED}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'[:80]!r}, which is refused") from None


def _with_a_number_checked(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def checked(unpickler: Any) -> None:
        load(unpickler)
        # Python hashes a number modulo 2**61 - 1: its multiples collide, and each key is compared with all before it
        if not -_WIDEST <= unpickler.stack[-1] < 2 * _WIDEST:
            raise pickle.UnpicklingError("a number of more than 64 bits")

    return checked


def _with_keys_checked(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    def checked(unpickler: Any) -> None:
        for key in unpickler.stack[keys]:
            if not isinstance(key, str | int | _Array):  # tuples of numbers can be chosen to collide too
                raise pickle.UnpicklingError(f"a key is a {type(key).__name__}, expected a text or a whole number")
        load(unpickler)

    return checked


for _code in (pickle.INT[0], pickle.LONG[0], pickle.LONG1[0], pickle.LONG4[0]):
    _Unpickler.dispatch[_code] = _with_a_number_checked(_Unpickler.dispatch[_code])
for _code, _keys in (
    (pickle.SETITEM[0], slice(-2, -1)),
    (pickle.SETITEMS[0], slice(None, None, 2)),
    (pickle.DICT[0], slice(None, None, 2)),
):
    _Unpickler.dispatch[_code] = _with_keys_checked(_Unpickler.dispatch[_code], _keys)


def read_numpy_dict(path: Path) -> dict[str, int]:
    """Read `numpy.save(path, {key: whole number})`; keys that are numbers come back as text.

    A value may be an int, a numpy integer or an array that holds one.

    Raises:
        InputError: naming the file and what is wrong: too large, cut off, another array, another kind of key
            or value, a function that the file wants called.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"{path}: {size} bytes, expected at most {MOST_BYTES}")
        with path.open("rb") as file:
            handle = BytesIO(file.read())  # which sets no memory aside for more than the file holds
        content = _read(handle)
        if handle.read(1):
            raise ValueError("something follows the dict")
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except InputError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes is the file's fault
        said = str(error) or type(error).__name__
        raise InputError(f"{path}: not a dict of whole numbers as numpy.save writes it: {said}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dict, found {type(content).__name__}")
    return _checked(content, path)


def _read(handle: BinaryIO) -> object:
    """The object in an array of dtype object and shape ()."""
    version = npy.read_magic(handle)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f".npy version {version}")
    shape, _, dtype = readers[version](handle)
    if not dtype.hasobject or shape != ():
        raise ValueError(f"an array of type {dtype} and shape {shape}")
    array = _Unpickler(handle).load()
    if not isinstance(array, _Array):
        raise ValueError(f"a {type(array).__name__} in the place of an array")
    return array.value


def _checked(content: dict[object, object], path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for found, entry in content.items():
        key, value = _plain(found), _plain(entry)
        if not isinstance(key, str) and not _is_number(key):
            raise InputError(f"{path}: a key is a {type(key).__name__}, expected a text or a whole number")
        name = str(key)
        if not _is_number(value):
            raise InputError(f"{path}: key {name[:40]!r}: {type(value).__name__}, expected a whole number of 64 bits")
        if name in numbers:
            raise InputError(f"{path}: key {name[:40]!r} stands there twice, as a text and as a number")
        assert isinstance(value, int)
        numbers[name] = value
    return numbers


def _plain(found: object) -> object:
    return found.value if isinstance(found, _Array) else found


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_WIDEST <= value < _WIDEST
