"""Write files atomically (a temporary file, then a rename), and read JSON."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame
    from pydantic import BaseModel
    from torch import Tensor

CHUNK_BYTES = 1 << 20
Kind = TypeVar("Kind", bound="BaseModel")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds, remove it if it fails.

    The content is synced before the rename, and the folder after it: after a power failure either the old or the new
    file exists, and after the end of the block the new one. An output is never opened in place: DVC links outputs to
    its cache, and writing through a link would change the cache.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except Exception as error:
        _say_where(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder; it replaces `path` if the block succeeds.

    Its files are synced first, same as in `atomic_path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".part", dir=path.parent))
    temporary.chmod(0o755)  # mkdtemp makes it private; outputs are readable for all
    try:
        yield temporary
        _take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(folder: Path, path: Path | str) -> None:
    """Replace `path` by the complete `folder`; from another disk it is copied first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    try:
        _take_place(folder, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_folder(path) as copied:
            shutil.copytree(folder, copied, dirs_exist_ok=True)
        shutil.rmtree(folder)


def _take_place(new: Path, path: Path) -> None:
    """Rename `new` to `path`. The old one is renamed first; a failure restores it, after a kill `_sweep` does."""
    with ThreadPoolExecutor(16) as pool:  # a disk combines parallel syncs
        list(pool.map(_sync, (*new.rglob("*"), new)))
    aside = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.old"
    try:
        if os.path.lexists(path):  # also true for a broken link
            os.replace(path, aside)
        os.replace(new, path)
    finally:
        if os.path.lexists(aside) and not os.path.lexists(path):
            os.replace(aside, path)
    _sync(path.parent)
    _remove(aside)


def _remove(left: Path) -> None:
    """Remove a file, a folder, or a link without its target."""
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno == errno.EINVAL):  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)


def _say_where(error: BaseException | None, path: Path) -> None:
    """Add the file's name to the error of a failed write; torch may chain its own error to it."""
    while error is not None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        error = error.__cause__ or error.__context__


def _sweep(path: Path) -> None:
    """Remove the temporary files for `path` of processes that no longer exist, or restore the renamed old one."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(?:\w+\.)?(?:part|old)")
    left = [
        beside
        for beside in path.parent.iterdir()
        if (found := name.fullmatch(beside.name)) is not None and not is_running(int(found[1]))
    ]
    aside = [beside for beside in left if beside.suffix == ".old"]
    if aside and not os.path.lexists(path):  # killed between the two renames: only this one is complete
        last = max(aside, key=lambda beside: beside.lstat().st_ctime)
        left.remove(last)
        os.replace(last, path)
    for beside in left:
        _remove(beside)


def is_running(process: int) -> bool:
    """Whether a process with this id exists on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # OverflowError: larger than any process id
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with Unix line ends."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON. NaN and infinity are refused: JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str, label: Path | str) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: naming `label`, the source of the text.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4 300 digits
        raise InputError(f"{label}: not readable as JSON (cut off?): {error}") from None


def read_json(path: Path, stage: str = "") -> Any:
    """The value of a JSON file made by `stage`.

    Raises:
        InputError: naming the file, when it is missing or not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `{f'dvc repro {stage}'.strip()}` makes it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from None
    return parse_json(text, path)


def read_record(path: Path, stage: str = "") -> dict[str, Any]:
    """A JSON file that holds an object; raises as `read_json`."""
    record = read_json(path, stage)
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected an object, found {type(record).__name__}")
    return record


def read_as(kind: type[Kind], path: Path, stage: str) -> Kind:
    """A JSON file as a pydantic model; raises as `read_json`, and for a wrong key, which it names."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(read_record(path, stage))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg']}; `dvc repro {stage}` makes it again") from None


def write_table(path: Path | str, table: DataFrame) -> None:
    """Write a table as parquet, without its index."""
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    write_bytes(path, content.getvalue())


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, the format of all weights and features: reading it cannot run code."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            dict(metadata) if metadata else None,
        )
        temporary.chmod(0o644)  # safetensors makes it private; outputs are readable for all


def read_tensors(path: Path, stage: str) -> dict[str, Tensor]:
    """What `write_tensors` wrote; `stage` made it.

    Raises:
        InputError: when the file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `dvc repro {stage}` makes it") from None
    except Exception as error:  # a damaged header can raise any type
        raise InputError(f"{path}: not a whole safetensors file: {error}") from None


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's content, read in chunks.

    Raises:
        InputError: when an earlier stage has not made the file.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while chunk := handle.read(CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `dvc repro` runs the stage that makes it") from None
    return digest.hexdigest()


def digest_of(*parts: Any) -> str:
    """Hexadecimal SHA-256 of JSON-able values, the same on every machine; used as key of stored state."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def users_path(path: str, key: str) -> Path:
    """A path from params.yaml, which need not exist; a relative one belongs to the main repository.

    Raises:
        InputError: naming the key, for an unknown user (`~name`) or an invalid path.
    """
    try:
        place = main_root() / Path(path).expanduser()  # an absolute path stays the same
        with suppress(FileNotFoundError, NotADirectoryError):
            place.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{key} = {path[:80]!r}: no place for a file ({error})") from None
    return place


def users_file(path: str, key: str) -> Path:
    """A file from params.yaml; a relative path belongs to the main repository.

    Raises:
        InputError: naming the key, when there is no such file.
    """
    place = users_path(path, key)
    if not place.is_file():
        raise InputError(f"{key} = {path!r}: no such file ({place})")
    return place


def main_root() -> Path:
    """The main repository (`DVC_ROOT`), which holds what must outlive DVC's temporary copies of it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
