"""What can happen to a file: bytes change, go, come or move, and well-formed values become odd ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from hypothesis import strategies as st

TOKENS = (
    *b'\0|\n|\r|\t| |,|"|{|}|:|#|\\|/|%s|\x1a|..|.|-1|0|null|true|NaN|-Infinity|1e999|0x10|../../x.jpg|/etc/x'.split(
        b"|"
    ),
    *b"&a|*a|<<|!!python/object/apply:os.mkdir ['x']|cos\nmkdir\n(Vx\ntR.|\x80\x04".split(b"|"),
    *(b"", b"[" * 3000, b"9" * 5000, b"\xff" * 8, b"\x80", b"\xef\xbb\xbf", b"\xed\xa0\x80"),
    *("\u2028".encode(), "é\u0301".encode(), "😀".encode()),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\1" + b"\0" * 7),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**70, -(2**70), 1e308, float("nan"), float("inf")),
    *("", " ", "x", "../x.jpg", "/x.jpg", "C:\\x", "\0", "\ud800", "\u2028", "a" * 5000, "1", "train", "nan"),
    *([], {}, [[]], [None], {"": None}, ["", "x"], [0, 10**9], [2**40, 2**40], {"a": {"b": []}}),
)
Edit = tuple[str, float, float, bytes]


def _edited(content: bytes, edits: list[Edit]) -> bytes:
    changed = bytearray(content)
    for kind, place, length, token in edits:
        start = int(place * len(changed))
        end = start + int(length**4 * (len(changed) - start)) + 1  # short pieces mostly
        if kind == "cut off":
            del changed[start:]
        elif kind == "remove":
            del changed[start:end]
        elif kind == "insert":
            changed[start:start] = token
        elif kind == "replace":
            changed[start : start + len(token)] = token
        elif kind == "repeat":
            changed[start:start] = changed[start:end] * 3
        elif kind == "flip" and changed:
            changed[min(start, len(changed) - 1)] ^= 1 << int(length * 7.99)
        elif kind == "zero":
            changed[start:end] = bytes(end - start)
    return bytes(changed)


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [found for key in keys for found in ((value, key), *_nodes(value[key]))]


def _odd(content: bytes, choices: list[tuple[float, int]]) -> bytes:
    """Well-formed JSON with a few values replaced, or removed."""
    value = [json.loads(content)]
    for place, index in choices:
        nodes = _nodes(value)
        if not nodes:
            break
        container, key = nodes[int(place * len(nodes))]
        if index < len(ODD):
            container[key] = json.loads(json.dumps(ODD[index]))
        elif isinstance(container, dict) or len(container) > 1:
            del container[key]
    return json.dumps(value[0]).encode()


_share = st.floats(0, 1, exclude_max=True)
_edits = st.lists(
    st.tuples(
        st.sampled_from(("flip", "replace", "insert", "remove", "cut off", "repeat", "zero")),
        *(_share, _share, st.sampled_from(TOKENS)),
    ),
    min_size=1,
    max_size=4,
)
_choices = st.lists(st.tuples(_share, st.integers(0, len(ODD) + 4)), min_size=1, max_size=3)


def _json(content: bytes) -> st.SearchStrategy[bytes]:
    return _choices.map(lambda choices: _odd(content, choices))


def _bytes(content: bytes) -> st.SearchStrategy[bytes]:
    return _edits.map(lambda edits: _edited(content, edits))


def _header(content: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with another header, its length told rightly."""
    (length,) = struct.unpack_from("<Q", content)
    header, rest = content[8 : 8 + length], content[8 + length :]
    changed = st.one_of(_json(header), _bytes(header))
    return changed.map(lambda text: struct.pack("<Q", len(text)) + text + rest)


_DEEPER: Mapping[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    ".json": _json,
    ".safetensors": _header,
}


def mutated(files: Mapping[str, bytes]) -> st.SearchStrategy[dict[str, bytes]]:
    """These files, one of them changed."""

    def one(name: str) -> st.SearchStrategy[dict[str, bytes]]:
        deeper = _DEEPER.get(PurePath(name).suffix)
        changes = [_bytes(files[name])] + ([deeper(files[name])] * 2 if deeper else [])
        return st.one_of(changes).map(lambda content: {**files, name: content})

    return st.sampled_from(sorted(files)).flatmap(one)
