"""What the pickle of a checkpoint asks for, found out by following its steps without taking them.

`torch.load(weights_only=True)` calls no foreign code, but it does call what sets memory aside (`bytearray(2 * 10**9)`,
`torch.FloatTensor(10**9)`, a storage of any size) or copies (`encode(…, "hex")` of its own result, over and over), and
it fills dicts whose keys were chosen to collide. Here a file may ask only for what checkpoints of weights, optimisers
and plain values need, in the form in which `torch.save` writes it.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

MOST_STEPS = 800_000  # a tensor takes thirty, a record of a training eighty; as many take two or three seconds
MOST_CALLS = 40_000  # of functions, two a tensor
MOST_COPIED = 1 << 20  # entries and characters that functions copy
MOST_DIMENSIONS = 64
_WIDEST = 1 << 63

_STORAGES = {
    f"torch {kind}Storage": width
    for width, kinds in {
        1: ("Bool", "Byte", "Char"),
        2: ("Half", "BFloat16", "Short"),
        4: ("Float", "Int"),
        8: ("Double", "Long", "ComplexFloat"),
        16: ("ComplexDouble",),
    }.items()
    for kind in kinds
}
_PLAIN_TYPE = re.compile(r"torch (bool|(u?int|b?float|complex)\d+)")
_NUMPY_TYPE = re.compile(r"[<>|=]?[?biufc](1|2|4|8|16)?")
_ORDERS = ("<", ">", "|", "=")


class Refused(ValueError):
    """A file asks for what no checkpoint needs; the text says for what, as the end of a sentence."""


class _Dict:
    """A dict, an OrderedDict or a Counter, by the number of its entries."""

    def __init__(self) -> None:
        self.entries = 0


class _NumpyType:
    pass


class _Namespace:
    pass


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    numbers: int


_OTHER = object()  # a list, a float, bytes, a tensor: nothing depends on what is in it


class PickleScan:
    """Follows the pickles of one file; what stands on the stack is what the checks need to know of a value."""

    def __init__(self, most_bytes: int) -> None:
        """Allow storages of `most_bytes` together: no more than the file has."""
        self.bytes_left = most_bytes
        self.steps_left = MOST_STEPS
        self.calls_left = MOST_CALLS
        self.copies_left = MOST_COPIED
        self.storages: dict[str, _Storage] = {}

    def follow(self, file: BinaryIO) -> None:
        """Follow one pickle; the file stands behind it afterwards.

        Raises:
            Refused: naming what it asks for.
            Exception: of almost any kind, when it is damaged.
        """
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Refused(f"its pickle has more than {MOST_STEPS} steps")
            step = self._STEPS.get(opcode.name)
            if step is None:
                raise Refused(f"its pickle has a step {opcode.name}, which torch.save does not write")
            step(self, argument)

    def _pop_marked(self) -> list[Any]:
        found, self.stack = self.stack, self.marked.pop()
        return found

    def _mark(self, _: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _number(self, number: int) -> None:
        if not -_WIDEST <= number < 2 * _WIDEST:
            raise Refused("it holds a number of more than 64 bits")
        self.stack.append(number)

    def _tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _marked_tuple(self, _: None) -> None:
        found = tuple(self._pop_marked())
        self.stack.append(found)

    def _append_marked(self, _: None) -> None:
        self._pop_marked()

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def _set_item(self, _: None) -> None:
        key, _value = self.stack[-2:]
        del self.stack[-2:]
        self._fill([key])

    def _set_items(self, _: None) -> None:
        self._fill(self._pop_marked()[::2])

    def _fill(self, keys: list[Any]) -> None:
        for key in keys:
            if not isinstance(key, str | int):  # of others, a tuple of numbers for one, any number can collide
                raise Refused("a key in it is neither a text nor a whole number")
        if not isinstance(self.stack[-1], _Dict):
            raise Refused("it fills something else than a dict")
        self.stack[-1].entries += len(keys)

    def _global(self, name: str) -> None:
        if name not in _STORAGES and name not in self._CALLS and not _PLAIN_TYPE.fullmatch(name):
            raise Refused(f"it asks for {name.replace(' ', '.')[:80]}, which is refused")
        self.stack.append(_Global(name))

    def _storage(self, _: None) -> None:
        match self.stack.pop():
            case ("storage", _Global(kind), str(key), str(), int(numbers), *view) if kind in _STORAGES:
                # a name is looked up in capitals and small letters alike: "A" and "a" would be one and read twice
                if not re.fullmatch(r"\d{1,20}", key, re.ASCII) or view not in ([], [None]) or numbers < 0:
                    raise Refused("it holds a storage that torch.save does not write")
            case _:
                raise Refused("it refers to something else than a storage")
        if key not in self.storages:
            self.bytes_left -= numbers * _STORAGES[kind]
            if self.bytes_left < 0:
                raise ValueError("it tells of more numbers than it holds")  # cut off, most likely
            self.storages[key] = _Storage(numbers)
        self.stack.append(self.storages[key])

    def _call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        call = self._CALLS.get(function.name) if isinstance(function, _Global) else None
        self.calls_left -= 1
        if call is None or not isinstance(arguments, tuple) or self.calls_left < 0:
            raise Refused("it calls what no checkpoint does, or too often")
        self.stack.append(call(self, arguments))

    def _build(self, _: None) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        self.calls_left -= 1
        match built, state:
            case ((_Namespace() | _Dict()), _Dict()) if self.calls_left >= 0:
                self._copy(state.entries)
            case _NumpyType(), (int(), str(order), None, None, None, int(), int(), int()) if order in _ORDERS:
                pass
            case _:
                raise Refused("it sets the state of something else than a namespace, a dict or a type")

    def _copy(self, entries: int) -> None:
        self.copies_left -= entries
        if self.copies_left < 0:
            raise Refused(f"it copies more than {MOST_COPIED} values")

    def _made_dict(self, arguments: tuple[Any, ...]) -> _Dict:
        made = _Dict()
        match arguments:
            case ():
                pass
            case (_Dict(entries=entries),):  # how a Counter is written
                self._copy(entries)
                made.entries = entries
            case _:
                raise Refused("it makes a dict of something else than a dict")
        return made

    def _made_bytes(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (str(text), "latin1"):  # how protocol 2 writes bytes
                self._copy(len(text))
                return _OTHER
        raise Refused("it encodes a text otherwise than bytes are written")

    def _made_numpy_type(self, arguments: tuple[Any, ...]) -> _NumpyType:
        match arguments:
            case (str(code), *_) if len(code) < 4 and _NUMPY_TYPE.fullmatch(code):
                return _NumpyType()
        raise Refused("it asks for a numpy type that is no plain number")

    def _made_number(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (_NumpyType(), _):
                return _OTHER
        raise Refused("it asks for a numpy value that is no plain number")

    def _made_tensor(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (_Storage(numbers), int(offset), tuple(sizes), tuple(strides), *_):
                places = (offset, *sizes, *strides)
            case _:
                raise Refused("it holds a tensor that torch.save does not write")
        if len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS or not all(isinstance(n, int) for n in places):
            raise Refused("it holds a tensor that torch.save does not write")
        # torch widens a storage for a tensor that is larger
        end = offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if min(places) < 0 or (all(sizes) and end > numbers):
            raise Refused("a tensor in it has more numbers than its storage")
        return _OTHER

    def _made_parameter(self, _: tuple[Any, ...]) -> object:
        return _OTHER

    def _made_size(self, arguments: tuple[Any, ...]) -> object:
        match arguments:
            case (tuple(sizes),) if len(sizes) <= MOST_DIMENSIONS:
                return _OTHER
        raise Refused("it holds a size that torch.save does not write")

    def _made_namespace(self, arguments: tuple[Any, ...]) -> _Namespace:
        if arguments:
            raise Refused("it makes a namespace of something")
        return _Namespace()

    _CALLS: ClassVar[dict[str, Callable[[PickleScan, tuple[Any, ...]], object]]] = {
        "collections OrderedDict": _made_dict,
        "collections Counter": _made_dict,
        "torch._utils _rebuild_tensor": _made_tensor,
        "torch._utils _rebuild_tensor_v2": _made_tensor,
        "torch._utils _rebuild_parameter": _made_parameter,
        "torch Size": _made_size,
        "torch device": _made_parameter,
        "argparse Namespace": _made_namespace,
        "_codecs encode": _made_bytes,
        "numpy dtype": _made_numpy_type,
        "numpy.core.multiarray scalar": _made_number,  # numpy 1 and 2
        "numpy._core.multiarray scalar": _made_number,
    }
    _STEPS: ClassVar[dict[str, Callable[[PickleScan, Any], None]]] = {
        **dict.fromkeys(("PROTO", "STOP"), lambda _, __: None),
        **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _number),
        **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING"), lambda self, text: self.stack.append(text)),
        **dict.fromkeys(("BINFLOAT", "EMPTY_LIST"), lambda self, _: self.stack.append(_OTHER)),
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
        **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
        **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
        "NONE": lambda self, _: self.stack.append(None),
        "NEWTRUE": lambda self, _: self.stack.append(True),
        "NEWFALSE": lambda self, _: self.stack.append(False),
        "EMPTY_TUPLE": lambda self, _: self.stack.append(()),
        "EMPTY_DICT": lambda self, _: self.stack.append(_Dict()),
        "MARK": _mark,
        "TUPLE": _marked_tuple,
        "TUPLE1": lambda self, _: self._tuple_of(1),
        "TUPLE2": lambda self, _: self._tuple_of(2),
        "TUPLE3": lambda self, _: self._tuple_of(3),
        "APPEND": lambda self, _: self.stack.pop(),
        "APPENDS": _append_marked,
        "SETITEM": _set_item,
        "SETITEMS": _set_items,
        "GLOBAL": _global,
        "BINPERSID": _storage,
        "BUILD": _build,
    }
