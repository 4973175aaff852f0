"""Load one published tower or tokenizer: from the hub or a folder, in transformers' or open_clip's layout."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import InputError, needs_extra
from pipeline.files import read_record, users_path
from pipeline.models.dual import PARTS, half_class
from pipeline.models.foreign import open_clip
from pipeline.models.quiet import silence_transformers
from pipeline.models.sizes import check_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Source = dict[str, str | None]  # of a tower: its `name` and the hub's `revision`
TOKENIZER_FILE = re.compile(r"tokenizer|vocab|merges|.*\.model$")
LEFT_OUT = re.compile(r"(^|\.)(pooler\.|mask_token$)")  # parameters that published towers may lack: unused here


def local_folder(key: str, name: str) -> Path | None:
    """The folder that a parameter names (relative to the main repository); None for a name on the hub.

    Raises:
        InputError: for a path without a folder.
    """
    local = users_path(name, key).resolve()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")):
        raise InputError(f"{key} = {name!r}: no such folder ({local})")
    return None


def load_backbone(key: str, name: str, revision: str | None, copied: Path | None = None) -> tuple[PreTrainedModel, str]:
    """The model and where it is read from; `copied`: by stage base, of the model that `key` names `name`."""
    from safetensors import safe_open
    from transformers import (
        AutoConfig,
        AutoModel,
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
    )

    from pipeline.models.clip import TEXT, VISION

    # transformers' AutoModel drops the projection of a single CLIP tower
    halves: dict[str, Any] = {VISION: CLIPVisionModelWithProjection, TEXT: CLIPTextModelWithProjection}
    silence_transformers()
    if copied is None and (elsewhere := _open_clip_place(key, name)) is not None:
        return _load_open_clip(key, name, elsewhere, revision), elsewhere
    local = local_folder(key, name) if copied is None else copied.resolve()
    if local is not None:
        for needed in ("config.json", "model.safetensors"):
            if not (local / needed).is_file():
                raise InputError(
                    f"{key} = {name!r}: the folder has no {needed}; transformers' format is needed"
                    if copied is None
                    else f"{copied / needed}: not found; run `dvc repro base`"
                )
    place = name if local is None else str(local)
    with explained(key, name), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        own = halves.get(config.model_type)
        if parts := getattr(config, PARTS, None):
            own = half_class(config, parts)
        weights = _file(place, "model.safetensors", revision)
        if weights is not None:  # None for weights in several files: the hub's configuration is trusted for their sizes
            build = own or functools.partial(AutoModel.from_config, trust_remote_code=False)
            with safe_open(weights, "pt") as opened:
                keys = opened.keys()
                shapes = [opened.get_slice(key).get_shape() for key in keys]
            check_size(config.to_dict(), lambda: build(config), shapes)
        torch.manual_seed(0)  # a pooler missing in the checkpoint gets the same weights at every fetch
        model, report = (own or AutoModel).from_pretrained(
            place,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    if lacking := sorted(key for key in report["missing_keys"] if not LEFT_OUT.search(key)):
        raise InputError(
            f"{key} = {name!r}: its weights lack {lacking[0]}"
            + (f" and {len(lacking) - 1} more" if lacking[1:] else "")
            + " of what its config.json describes; they would be random numbers"
        )
    return model, place


def _open_clip_place(key: str, name: str) -> str | None:
    """The hub id or folder of a model in open_clip's layout: named `hf-hub:…`, or without transformers' own file."""
    if name.startswith(open_clip.PREFIX):
        return name.removeprefix(open_clip.PREFIX)
    local = local_folder(key, name)
    if local is None or (local / "config.json").is_file() or not (local / open_clip.CONFIG).is_file():
        return None
    return str(local)


def _load_open_clip(key: str, name: str, place: str, revision: str | None) -> PreTrainedModel:
    def fetched(*files: str) -> Path:
        with explained(key, name):
            found = next((path for file in files if (path := _file(place, file, revision)) is not None), None)
        if found is None:
            raise InputError(f"{key} = {name!r}: has no {' or '.join(files)}; open_clip's layout is needed")
        return found

    try:
        config = read_record(fetched(open_clip.CONFIG))
        open_clip.check(config)  # before its weights are fetched
        return open_clip.read_open_clip(config, fetched(*open_clip.WEIGHTS))
    except InputError as error:
        raise InputError(f"{key} = {name!r}: {str(error).removeprefix(f'{key} = {name!r}: ')}") from None


def load_tokenizer(
    key: str, name: str, place: str, revision: str | None, model: PreTrainedModel
) -> PreTrainedTokenizerBase:
    """The tokenizer; it cuts captions at the model's own number of positions at the latest."""
    from transformers import AutoTokenizer

    missing = InputError(f"{key} = {name!r}: has no tokenizer; tokenizer.json or vocab.txt is needed beside it")
    if Path(place).is_dir() and not any(TOKENIZER_FILE.match(file.name) for file in Path(place).iterdir()):
        raise missing
    with explained(key, name):
        # explicit: otherwise transformers asks at the terminal whether to run the folder's code
        tokenizer = AutoTokenizer.from_pretrained(
            place, config=model.config, revision=revision, trust_remote_code=False
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty tokenizer if there is none
        raise missing
    if tokenizer.pad_token_id is None:
        raise InputError(f"{key} = {name!r}: its tokenizer has no padding token; name one in tokenizer_config.json")
    tokenizer.model_max_length = min(tokenizer.model_max_length, _positions(model))
    return tokenizer


def _positions(model: PreTrainedModel) -> int:
    """The most tokens of a caption; a model without a table of positions has no limit."""
    config = getattr(model.config, "text_config", model.config)
    limit = getattr(config, "max_position_embeddings", None)
    table = next((part for name, part in model.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa counts positions from here
    return sys.maxsize if not isinstance(limit, int) else limit if padding is None else limit - padding - 1


def source_of(key: str, name: str, place: str, asked: str | None) -> Source:
    """The name, and the hub's revision that was fetched, from the cache's folder; None for a local folder."""
    from transformers.utils.hub import extract_commit_hash

    file = "config.json" if _open_clip_place(key, name) is None else open_clip.CONFIG
    path = _file(place, file, asked)
    return {"name": name, "revision": None if Path(place).is_dir() else extract_commit_hash(str(path), None) or asked}


def preprocessor_of(key: str, name: str, place: str, revision: str | None) -> dict[str, Any] | None:
    """What the tower says of its pictures, in transformers' words; None if nothing."""
    if _open_clip_place(key, name) is not None:
        config = _file(place, open_clip.CONFIG, revision)
        assert config is not None
        return open_clip.preprocessor(read_record(config))
    path = _file(place, "preprocessor_config.json", revision)
    return None if path is None else read_record(path)


def _file(place: str, file: str, revision: str | None) -> Path | None:
    """A file of a folder or of a hub repository, fetched if need be; None if there is none."""
    from transformers.utils import cached_file

    path = cached_file(place, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


@contextmanager
def explained(key: str, name: str) -> Iterator[None]:
    """Turn the many errors of loading into one with advice."""
    try:
        yield
    except ImportError as error:
        hint = f"; {needs_extra('timm')}" if "timm" in str(error) else ""
        raise InputError(f"{key} = {name!r}: {_first_line(error)}{hint}") from error
    except Exception as error:  # a damaged folder can raise any type
        if users_path(name, key).is_dir():
            raise InputError(f"{key} = {name!r}: the folder cannot be read ({_first_line(error)})") from error
        raise InputError(
            f"{key} = {name!r}: cannot be fetched or read ({_first_line(error)}). Without the hub, download its "
            f"config.json, model.safetensors{' and tokenizer files' if key.endswith('text') else ''} elsewhere "
            f"and give their folder: -S {key}=path/to/folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
