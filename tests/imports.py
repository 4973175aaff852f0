"""Which of the project's modules a stage imports, directly or through others, read from their sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULE = re.compile(r"(pipeline|stages)(\.\w+)+")


def import_closure(start: str, left_out: Collection[str] = ()) -> set[str]:
    """Paths of the modules that `start` needs to run, itself included; what is left out is not looked into.

    Imports inside functions count, and a text that is a module's name, for a process that runs it; those under
    `if TYPE_CHECKING:` do not. A package counts by its `__init__.py` where that holds more than a docstring.
    """
    found, to_read = set[str](), [start]
    while to_read:
        path = to_read.pop()
        if path in found or is_within(path, left_out):
            continue
        found.add(path)
        tree = ast.parse((ROOT / path).read_text())
        to_read += [module for name in _imported(tree) for module in _modules(name)]
    return {path for path in found if not path.endswith("/__init__.py") or _does_something(path)}


def is_within(path: str, named: Collection[str]) -> bool:
    """Whether `path` is one of these files, or lies in one of these folders."""
    return any(path == name or path.startswith(f"{name}/") for name in named)


def _imported(node: ast.AST) -> Iterator[str]:
    """Dotted names, each perhaps a module's and perhaps a name in one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "the project imports by full names"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE.fullmatch(node.value):
        yield node.value
    types_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in node.orelse if isinstance(node, ast.If) and types_only else ast.iter_child_nodes(node):
        yield from _imported(child)


def _modules(name: str) -> Iterator[str]:
    """The files of the project that an import of `name` runs: each package on the way, and the module."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = "/".join(parts[:end])
        yield from (file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).is_file())


def _does_something(path: str) -> bool:
    body = ast.parse((ROOT / path).read_text()).body
    return any(not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)) for line in body)
