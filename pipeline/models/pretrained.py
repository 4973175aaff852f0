"""Fetch towers from the hub or a local path, save and load them as folders in transformers' format (safetensors)."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipeline.errors import InputError
from pipeline.files import read_record, sha256, users_path, write_json
from pipeline.models.dual import PARTS, half_class, is_dual_encoder, split_dual
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD, HALF, channels
from pipeline.models.sizes import check_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SIDES = range(16, 1025)  # pixels a side of an image that a tower may be given
USUAL_SIDE = 224  # where neither a preprocessor nor a configuration says
INPUTS = {"pixel_values", "input_ids", "decoder_input_ids"}
Source = dict[str, str | None]  # of a tower: its `name` and the hub's `revision`
TOKENIZER_FILE = re.compile(r"tokenizer|vocab|merges|.*\.model$")
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


class ImageEncoder(NamedTuple):
    """An image backbone, and the mean, standard deviation and size (pixels a side) of the images that it expects."""

    backbone: PreTrainedModel
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    source: Source


def fetch(image: str, text: str, *, image_revision: str | None, text_revision: str | None) -> Pretrained:
    """Load both towers, see `fetch_image` and `fetch_text`."""
    image_model, mean, std, _, image_source = fetch_image("model.image", image, image_revision)
    text_model, tokenizer, text_source = fetch_text("model.text", text, text_revision)
    source = {"image": image_source, "text": text_source}
    return Pretrained(image_model, text_model, tokenizer, mean=mean, std=std, source=source)


def fetch_image(key: str, name: str, revision: str | None = None) -> ImageEncoder:
    """Load an image tower from the hub or from a local folder (relative to the main repository); of a CLIP its half.

    Raises:
        InputError: when it cannot be loaded, with advice; `key` is the parameter that names it.
    """
    model, place = _load_backbone(key, name, revision)
    _check_input(key, name, model, "pixel_values")
    tokenizer = _tokenizer(key, name, place, revision, model) if _is_whole(model) else None
    model = _half(key, name, model, tokenizer, "pixel_values")
    with _explained(key, name):
        preprocessor = _preprocessor(place, revision)
        mean, std = _normalisation(preprocessor, model.config)
    size, source = _image_size(preprocessor or {}, model.config), _source(name, place, revision)
    return ImageEncoder(model, mean, std, size, source)


def fetch_text(
    key: str, name: str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Source]:
    """Load a text tower and its tokenizer, as `fetch_image`."""
    model, place = _load_backbone(key, name, revision)
    _check_input(key, name, model, "input_ids")
    tokenizer = _tokenizer(key, name, place, revision, model)
    return _half(key, name, model, tokenizer, "input_ids"), tokenizer, _source(name, place, revision)


def fetch_clip(name: str, *, revision: str | None) -> Pretrained:
    """Load a CLIP, or another dual encoder, from the hub or from a local folder; raises as `fetch`."""
    model, place = _load_backbone("model.image", name, revision)
    if not is_dual_encoder(model):
        raise InputError(
            f"model.image = {name!r}: model.family is clip, but a {model.config.model_type} does not encode both "
            "images and captions; use model.family vit_bert for two towers of their own"
        )
    tokenizer = _tokenizer("model.image", name, place, revision, model)
    with _explained("model.image", name):
        image, text, logit_scale = _halves(model, tokenizer)
    with _explained("model.image", name):
        mean, std = _normalisation(_preprocessor(place, revision), image.config)
    origin = _source(name, place, revision)
    source = {"image": origin, "text": origin}
    return Pretrained(image, text, tokenizer, mean=mean, std=std, source=source, logit_scale=logit_scale)


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


def save(folder: Path, pretrained: Pretrained) -> None:
    """Write `image/`, `text/` (with its tokenizer) and `base.json`: sources, normalisation, digests of all files."""
    for side, tower in (("image", pretrained.image), ("text", pretrained.text)):
        # a half keeps the names of its own parameters: those of the published whole are mapped back only for a whole
        tower.save_pretrained(folder / side, save_original_format=not hasattr(tower.config, PARTS))
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
    named = {side: record.source[side]["name"] or "" for side in ("image", "text")}
    image_model, _ = _load_backbone("model.image", named["image"], None, folder / "image")
    text_model, text_place = _load_backbone("model.text", named["text"], None, folder / "text")
    with _explained("model.text", named["text"]):
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


def _halves(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedModel, float | None]:
    """Both towers of a dual encoder, and the logarithm of its factor on similarities."""
    from pipeline.models.clip import split_clip

    return split_clip(model) if model.config.model_type == "clip" else split_dual(model, tokenizer)  # type: ignore[arg-type]


def _is_whole(model: PreTrainedModel) -> bool:
    return is_dual_encoder(model) and not hasattr(model.config, PARTS)


def _half(
    key: str, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, takes: str
) -> PreTrainedModel:
    """A backbone whose only input are pixels or token ids (`takes`): of a dual encoder one of its two towers."""
    if not _is_whole(model):
        return model
    assert tokenizer is not None
    with _explained(key, name):
        image, text, _ = _halves(model, tokenizer)
    return image if takes == "pixel_values" else text


def _check_input(key: str, name: str, model: PreTrainedModel, takes: str) -> None:
    """Refuse a model whose only input are not pixels or token ids (`takes`); a dual encoder has both, in two halves."""
    if INPUTS & inspect.signature(model.forward).parameters.keys() != {takes} and not is_dual_encoder(model):
        what = "images" if takes == "pixel_values" else "captions"
        raise InputError(f"{key} = {name!r}: a {model.config.model_type} cannot encode {what} alone")


def _load_backbone(
    key: str, name: str, revision: str | None, copied: Path | None = None
) -> tuple[PreTrainedModel, str]:
    """The model and where it is read from; `copied`: by stage base, of the model that `key` names `name`."""
    from safetensors import safe_open
    from transformers import (
        AutoConfig,
        AutoModel,
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
    )
    from transformers.utils import cached_file

    from pipeline.models.clip import TEXT, VISION

    # transformers' AutoModel drops the projection of a single CLIP tower
    halves: dict[str, Any] = {VISION: CLIPVisionModelWithProjection, TEXT: CLIPTextModelWithProjection}
    silence_transformers()
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
    with _explained(key, name), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        own = halves.get(config.model_type)
        if parts := getattr(config, PARTS, None):
            own = half_class(config, parts)
        weights = cached_file(
            place, "model.safetensors", revision=revision, _raise_exceptions_for_missing_entries=False
        )
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


def _tokenizer(
    key: str, name: str, place: str, revision: str | None, model: PreTrainedModel
) -> PreTrainedTokenizerBase:
    """The tokenizer; it cuts captions at the model's own number of positions at the latest."""
    from transformers import AutoTokenizer

    missing = InputError(f"{key} = {name!r}: has no tokenizer; tokenizer.json or vocab.txt is needed beside it")
    if Path(place).is_dir() and not any(TOKENIZER_FILE.match(file.name) for file in Path(place).iterdir()):
        raise missing
    with _explained(key, name):
        # explicit: otherwise transformers asks at the terminal whether to run the folder's code
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty tokenizer if there is none
        raise missing
    tokenizer.model_max_length = min(tokenizer.model_max_length, _positions(model))
    return tokenizer


def _positions(model: PreTrainedModel) -> int:
    """The most tokens of a caption; a model without a table of positions has no limit."""
    config = getattr(model.config, "text_config", model.config)
    limit = getattr(config, "max_position_embeddings", None)
    table = next((part for name, part in model.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa counts positions from here
    return sys.maxsize if not isinstance(limit, int) else limit if padding is None else limit - padding - 1


@contextmanager
def _explained(key: str, name: str) -> Iterator[None]:
    """Turn the many errors of loading into one with advice."""
    try:
        yield
    except ImportError as error:
        hint = (
            "; it needs the extra `timm`: pip install --no-build-isolation -c constraints.txt '.[timm]'"
            if "timm" in str(error)
            else ""
        )
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


def _source(name: str, place: str, asked: str | None) -> Source:
    """The name, and the hub's revision that was fetched, from the cache's folder; None for a local folder."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    revision = extract_commit_hash(cached_file(place, "config.json", revision=asked), None) or asked
    return {"name": name, "revision": revision}


def _preprocessor(place: str, revision: str | None) -> dict[str, Any] | None:
    from transformers.utils import cached_file

    path = cached_file(
        place, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return None if path is None else read_record(Path(path))


def _normalisation(preprocessor: dict[str, Any] | None, config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The image model's own mean and std: of its preprocessor, of timm's configuration, or ViT's."""
    if preprocessor is not None and preprocessor.get("do_normalize") is False:
        return (HALF, HALF) if preprocessor.get("rescale_offset") else ((0.0,) * 3, (1.0,) * 3)  # ALIGN: from -1 to 1
    if preprocessor is not None:
        return channels(preprocessor.get("image_mean")), channels(preprocessor.get("image_std"))
    timm = getattr(config, "pretrained_cfg", None) or {}
    return channels(timm.get("mean")), channels(timm.get("std"))


def _image_size(preprocessor: Mapping[str, Any], config: Any) -> int:
    """Pixels a side: what the preprocessor's crop leaves, else its size, the configuration's, or timm's."""
    config = getattr(config, "vision_config", config)
    timm = getattr(config, "pretrained_cfg", None) or {}
    crop = preprocessor.get("crop_size") if preprocessor.get("do_center_crop") else None
    for size in (crop, preprocessor.get("size"), getattr(config, "image_size", None), timm.get("input_size")):
        values = size.values() if isinstance(size, Mapping) else size if isinstance(size, list | tuple) else [size]
        if sides := [value for value in values if isinstance(value, int) and value in SIDES]:
            return min(sides)
    return USUAL_SIDE
