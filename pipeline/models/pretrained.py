"""Fetch towers from the hub or a local path, save and load them as folders in transformers' format (safetensors)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.errors import InputError
from pipeline.files import read_record, sha256, write_json
from pipeline.models.dual import PARTS, is_dual_encoder, split_dual
from pipeline.models.loading import Source, explained, load_backbone, load_tokenizer, preprocessor_of, source_of
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD, Resize, channels, resize_by
from pipeline.models.preprocessing import image_size, normalisation_of, own_resize

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INPUTS = {"pixel_values", "input_ids", "decoder_input_ids"}


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """What `base.json` says of the towers: all that a model over frozen features needs, without transformers."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: dict[str, Any]
    logit_scale: float | None = None
    """Of a CLIP: the logarithm of the factor on similarities."""
    resize: Resize | None = None
    """As the image tower's own preprocessing has it; None where it states nothing."""
    digest: str | None = None
    """Of the file itself, which names the digests of all towers' files; None before it is written."""

    def resize_by(self, kind: Literal["auto", "square", "crop"]) -> Resize:
        """How images become squares by `model.resize`, see `normalisation.resize_by`."""
        return resize_by(kind, self.resize)

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
    """An image backbone, and the images that it expects: mean, standard deviation, size (pixels a side), resize."""

    backbone: PreTrainedModel
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    resize: Resize | None
    source: Source


def fetch(image: str, text: str, *, image_revision: str | None, text_revision: str | None) -> Pretrained:
    """Load both towers, see `fetch_image` and `fetch_text`."""
    image_model, mean, std, _, resize, image_source = fetch_image("model.image", image, image_revision)
    text_model, tokenizer, text_source = fetch_text("model.text", text, text_revision)
    source = {"image": image_source, "text": text_source}
    return Pretrained(image_model, text_model, tokenizer, mean=mean, std=std, resize=resize, source=source)


def fetch_image(key: str, name: str, revision: str | None = None) -> ImageEncoder:
    """Load an image tower from the hub or from a local folder (relative to the main repository); of a CLIP its half.

    Raises:
        InputError: when it cannot be loaded, with advice; `key` is the parameter that names it.
    """
    model, place = load_backbone(key, name, revision)
    _check_input(key, name, model, "pixel_values")
    if _is_whole(model):
        model, _, _ = _halves(key, name, model, load_tokenizer(key, name, place, revision, model))
    with explained(key, name):
        preprocessor = preprocessor_of(key, name, place, revision)
        mean, std = normalisation_of(preprocessor, model.config)
    size, source = image_size(preprocessor or {}, model.config), source_of(key, name, place, revision)
    return ImageEncoder(model, mean, std, size, own_resize(preprocessor or {}), source)


def fetch_text(
    key: str, name: str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Source]:
    """Load a text tower and its tokenizer, as `fetch_image`."""
    model, place = load_backbone(key, name, revision)
    _check_input(key, name, model, "input_ids")
    tokenizer = load_tokenizer(key, name, place, revision, model)
    if _is_whole(model):
        _, model, _ = _halves(key, name, model, tokenizer)
    return model, tokenizer, source_of(key, name, place, revision)


def fetch_clip(name: str, *, revision: str | None) -> Pretrained:
    """Load a CLIP, or another dual encoder, from the hub or from a local folder; raises as `fetch`."""
    model, place = load_backbone("model.image", name, revision)
    if not is_dual_encoder(model):
        raise InputError(
            f"model.image = {name!r}: model.family is clip, but a {model.config.model_type} does not encode both "
            "images and captions; use model.family vit_bert for two towers of their own"
        )
    tokenizer = load_tokenizer("model.image", name, place, revision, model)
    image, text, logit_scale = _halves("model.image", name, model, tokenizer)
    with explained("model.image", name):
        preprocessor = preprocessor_of("model.image", name, place, revision)
        mean, std = normalisation_of(preprocessor, image.config)
    origin = source_of("model.image", name, place, revision)
    return Pretrained(
        image,
        text,
        tokenizer,
        mean=mean,
        std=std,
        source={"image": origin, "text": origin},
        logit_scale=logit_scale,
        resize=own_resize(preprocessor or {}),
    )


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
        "resize": pretrained.resize,
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
    image_model, _ = load_backbone("model.image", named["image"], None, folder / "image")
    text_model, text_place = load_backbone("model.text", named["text"], None, folder / "text")
    with explained("model.text", named["text"]):
        tokenizer = AutoTokenizer.from_pretrained(text_place, trust_remote_code=False)
    return Pretrained(image_model, text_model, tokenizer, **vars(record))


def read_base_record(folder: Path) -> BaseRecord:
    """Read `base.json` alone.

    Raises:
        InputError: when it is missing or invalid.
    """
    path = folder / "base.json"
    record = read_record(path, "base")
    try:
        return BaseRecord(
            mean=channels(record["mean"]),
            std=channels(record["std"]),
            source={side: record[side] for side in ("image", "text")},
            logit_scale=record.get("logit_scale"),
            resize=record.get("resize"),
            digest=sha256(path),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not what stage base writes ({error!r})") from None


def _halves(
    key: str, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedModel, float | None]:
    """Both towers of a dual encoder, and the logarithm of its factor on similarities."""
    from pipeline.models.clip import split_clip

    with explained(key, name):
        return split_clip(model) if model.config.model_type == "clip" else split_dual(model, tokenizer)  # type: ignore[arg-type]


def _is_whole(model: PreTrainedModel) -> bool:
    return is_dual_encoder(model) and not hasattr(model.config, PARTS)


def _check_input(key: str, name: str, model: PreTrainedModel, takes: str) -> None:
    """Refuse a model whose only input are not pixels or token ids (`takes`); a dual encoder has both, in two halves."""
    if INPUTS & inspect.signature(model.forward).parameters.keys() != {takes} and not is_dual_encoder(model):
        what = "images" if takes == "pixel_values" else "captions"
        raise InputError(f"{key} = {name!r}: a {model.config.model_type} cannot encode {what} alone")
