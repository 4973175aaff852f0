"""Fetch towers from the hub or a local path, save and load them as folders in transformers' format (safetensors)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import InputError
from pipeline.files import read_record, sha256, users_path, write_json
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD, channels
from pipeline.models.sizes import check_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEFT_OUT = re.compile(r"(^|\.)(pooler\.|mask_token$)")  # parameters that published towers may lack: unused here


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """What `base.json` says of the towers: all that a model over frozen features needs, without transformers."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: dict[str, Any]
    logit_scale: float | None = None
    """Of a CLIP: the logarithm of the factor on similarities."""

    def normalisation(self, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of pixels by `model.normalisation`: the tower's own ("model") or CLIP's."""
        return (CLIP_MEAN, CLIP_STD) if kind == "clip" else (self.mean, self.std)


@dataclass(frozen=True)
class Pretrained(BaseRecord):
    """Two backbones, the tokenizer, and their sources."""

    image: PreTrainedModel
    text: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def fetch(image: str, text: str, *, image_revision: str | None, text_revision: str | None) -> Pretrained:
    """Load both towers from the hub or from local folders (relative to the main repository).

    Raises:
        InputError: when one cannot be loaded, with advice.
    """
    image_model, image_place = _load_backbone("image", image, image_revision)
    text_model, text_place = _load_backbone("text", text, text_revision)
    tokenizer = _tokenizer("text", text, text_place, text_revision)
    with _explained("image", image):
        mean, std = _normalisation(image_place, image_revision, image_model.config)
    source = {
        "image": {"name": image, "revision": _commit(image_place, image_revision)},
        "text": {"name": text, "revision": _commit(text_place, text_revision)},
    }
    return Pretrained(image_model, text_model, tokenizer, mean=mean, std=std, source=source)


def fetch_clip(name: str, *, revision: str | None) -> Pretrained:
    """Load a CLIP from the hub or from a local folder; raises as `fetch`."""
    from pipeline.models.clip import split_clip

    model, place = _load_backbone("image", name, revision)
    if model.config.model_type != "clip":
        raise InputError(
            f"model.image = {name!r}: model.family is clip, but this is a {model.config.model_type}; "
            "use model.family vit_bert for two towers of their own"
        )
    image, text, logit_scale = split_clip(model)  # type: ignore[arg-type]
    tokenizer = _tokenizer("image", name, place, revision)
    with _explained("image", name):
        mean, std = _normalisation(place, revision, image.config)
    origin = {"name": name, "revision": _commit(place, revision)}
    source = {"image": origin, "text": origin}
    return Pretrained(image, text, tokenizer, mean=mean, std=std, source=source, logit_scale=logit_scale)


def local_folder(side: str, name: str) -> Path | None:
    """The folder of `model.image` or `model.text` (relative to the main repository); None for a name on the hub.

    Raises:
        InputError: for a path without a folder.
    """
    local = users_path(name, f"model.{side}").resolve()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")):
        raise InputError(f"model.{side} = {name!r}: no such folder ({local})")
    return None


def save(folder: Path, pretrained: Pretrained) -> None:
    """Write `image/`, `text/` (with its tokenizer) and `base.json`: sources, normalisation, digests of all files."""
    pretrained.image.save_pretrained(folder / "image")
    pretrained.text.save_pretrained(folder / "text")
    pretrained.tokenizer.save_pretrained(folder / "text")
    files = [file for side in ("image", "text") for file in sorted((folder / side).iterdir())]
    record = {
        **pretrained.source,
        "mean": list(pretrained.mean),
        "std": list(pretrained.std),
        "logit_scale": pretrained.logit_scale,
        "sha256": {str(file.relative_to(folder)): sha256(file) for file in files},
    }
    write_json(folder / "base.json", record)


def load(folder: Path) -> Pretrained:
    """Read what `save` wrote.

    Raises:
        InputError: when the folder or a part of it is missing.
    """
    from transformers import AutoTokenizer

    record = read_base_record(folder)
    image_model, _ = _load_backbone("image", str((folder / "image").resolve()), None)
    text_model, text_place = _load_backbone("text", str((folder / "text").resolve()), None)
    with _explained("text", text_place):
        tokenizer = AutoTokenizer.from_pretrained(text_place, trust_remote_code=False)
    return Pretrained(image_model, text_model, tokenizer, **vars(record))


def read_base_record(folder: Path) -> BaseRecord:
    """Read `base.json` alone.

    Raises:
        InputError: when it is missing or invalid.
    """
    record = read_record(folder / "base.json", "base")
    try:
        return BaseRecord(
            mean=channels(record["mean"]),
            std=channels(record["std"]),
            source={side: record[side] for side in ("image", "text")},
            logit_scale=record.get("logit_scale"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{folder / 'base.json'}: not what stage base writes ({error!r})") from None


def silence_transformers() -> None:
    """Switch off transformers' progress bar and its report about missing weights: the pooler is not needed."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _load_backbone(side: str, name: str, revision: str | None) -> tuple[PreTrainedModel, str]:
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection
    from transformers.utils import cached_file

    from pipeline.models.clip import TEXT, VISION

    # transformers' AutoModel drops the projection of a single CLIP tower
    halves: dict[str, Any] = {VISION: CLIPVisionModelWithProjection, TEXT: CLIPTextModelWithProjection}
    silence_transformers()
    local = local_folder(side, name)
    if local is not None:
        for needed in ("config.json", "model.safetensors"):
            if not (local / needed).is_file():
                raise InputError(f"model.{side} = {name!r}: the folder has no {needed}; transformers' format is needed")
    place = name if local is None else str(local)
    with _explained(side, name), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        weights = cached_file(
            place, "model.safetensors", revision=revision, _raise_exceptions_for_missing_entries=False
        )
        if weights is not None:  # None for weights in several files: the hub's configuration is trusted for their sizes
            build = halves.get(config.model_type, functools.partial(AutoModel.from_config, trust_remote_code=False))
            with safe_open(weights, "pt") as opened:
                keys = opened.keys()
                shapes = [opened.get_slice(key).get_shape() for key in keys]
            check_size(config.to_dict(), lambda: build(config), shapes)
        torch.manual_seed(0)  # a pooler missing in the checkpoint gets the same weights at every fetch
        model, report = halves.get(config.model_type, AutoModel).from_pretrained(
            place,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    if lacking := sorted(key for key in report["missing_keys"] if not LEFT_OUT.search(key)):
        raise InputError(
            f"model.{side} = {name!r}: its weights lack {lacking[0]}"
            + (f" and {len(lacking) - 1} more" if lacking[1:] else "")
            + " of what its config.json describes; they would be random numbers"
        )
    return model, place


def _tokenizer(side: str, name: str, place: str, revision: str | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _explained(side, name):
        # explicit: otherwise transformers asks at the terminal whether to run the folder's code
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty tokenizer if there is none
        raise InputError(f"model.{side} = {name!r}: has no tokenizer; tokenizer.json or vocab.txt is needed beside it")
    return tokenizer


@contextmanager
def _explained(side: str, name: str) -> Iterator[None]:
    """Turn the many errors of loading into one with advice."""
    try:
        yield
    except ImportError as error:
        hint = (
            "; it needs the extra `timm`: pip install --no-build-isolation -c constraints.txt '.[timm]'"
            if "timm" in str(error)
            else ""
        )
        raise InputError(f"model.{side} = {name!r}: {_first_line(error)}{hint}") from error
    except Exception as error:  # a damaged folder can raise any type
        raise InputError(
            f"model.{side} = {name!r}: cannot be fetched or read ({_first_line(error)}). Without the hub, download its "
            f"config.json, model.safetensors{' and tokenizer files' if side == 'text' else ''} elsewhere "
            f"and give their folder: -S model.{side}=path/to/folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _commit(place: str, asked: str | None) -> str | None:
    """The hub's revision that was fetched, from the name of the cache's folder; None for a local folder."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    return extract_commit_hash(cached_file(place, "config.json", revision=asked), None) or asked


def _normalisation(place: str, revision: str | None, config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The image model's own mean and std: of its preprocessor, of timm's configuration, or ViT's."""
    from transformers.utils import cached_file

    path = cached_file(
        place, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if path is not None:
        record = read_record(Path(path))
        return channels(record.get("image_mean")), channels(record.get("image_std"))
    timm = getattr(config, "pretrained_cfg", None) or {}
    return channels(timm.get("mean")), channels(timm.get("std"))
