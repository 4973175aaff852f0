"""Make the model from the base towers, save it, and load it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.files import read_as, read_tensors, write_json, write_tensors
from pipeline.models import pretrained
from pipeline.models.anchor import Anchored, Projection, projections
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.heads import FeatureStatistics, Head, ResidualHead
from pipeline.models.normalisation import Resize
from pipeline.models.pretrained import BaseRecord, Pretrained
from pipeline.models.towers import FIRST_TEMPERATURE, MatchingModel, Pooling, tower_widths
from pipeline.models.trainable import merged
from pipeline.params import ModelParams

RECORD, HEADS = "model.json", "heads.safetensors"
Widths = tuple[int, int]
"""The widths of frozen features: the images', and the captions'."""
Statistics = tuple[FeatureStatistics, FeatureStatistics]
"""Of frozen features: the images', and the captions'."""
Channels = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class ModelRecord(BaseModel):
    """`model.json`: what is needed to use the weights stored with it."""

    model_config = ConfigDict(extra="allow")

    family: Literal["vit_bert", "clip"]
    train: Literal["towers", "heads"]
    width: Annotated[int, Field(ge=1)]
    pooling: Pooling = "masked_mean"
    words: Annotated[int, Field(ge=1)]
    captions: Literal["cleaned", "raw"]
    image_size: Annotated[int, Field(ge=1)]
    resize: Resize = "square"
    standardise: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    anchor: Literal["none", "cca"] = "none"
    anchor_weight: Annotated[FiniteFloat, Field(gt=0)] = 0.3
    mean: Channels
    std: Channels
    base: str | None = None
    """Of heads: the digest of the base.json of the towers under them; None in folders of earlier versions."""


def load_base(folder: Path, settings: ModelParams) -> BaseRecord:
    """What a training starts from: the towers in `folder`, or their record where `model.train` is heads."""
    return pretrained.load(folder) if settings.train == "towers" else pretrained.read_base_record(folder)


def make_model(
    base: BaseRecord,
    settings: ModelParams,
    temperature: float | Literal["learned"] = FIRST_TEMPERATURE,
    feature_widths: Widths | None = None,
    statistics: Statistics | None = None,
    alignment: Mapping[str, Tensor] | None = None,
) -> MatchingModel:
    """The model that a training starts from; heads and projections are initialised from torch's global generator.

    Args:
        base: the towers (not needed for frozen features), and the normalisation of their pixels.
        settings: section `model`.
        temperature: similarities are divided by it; "learned": a parameter that starts from CLIP's own value, or from
            `FIRST_TEMPERATURE`.
        feature_widths: for frozen features; None: both towers end to end.
        statistics: of the training split's features, which heads standardise their inputs by; None: they do not.
        alignment: the `state_dict` of a closed-form alignment, the anchor under the heads; None: no anchor.
    """
    if feature_widths is None:
        assert isinstance(base, Pretrained)
        towers, widths = _towers(base, settings.pooling, settings.image_size)
    else:
        towers, widths = (nn.Identity(), nn.Identity()), feature_widths
    width = settings.width or min(widths)
    anchors = None if alignment is None else projections(alignment)
    heads = heads_over(widths, width, settings, statistics, anchors)
    width += 0 if anchors is None else anchors[0].projection_WA.shape[1]
    mean, std = base.normalisation(settings.normalisation)
    if temperature != "learned":
        return MatchingModel(*towers, *heads, width=width, mean=mean, std=std, temperature=temperature)
    model = MatchingModel(*towers, *heads, width=width, mean=mean, std=std)
    start = -math.log(FIRST_TEMPERATURE) if base.logit_scale is None else base.logit_scale
    model.logit_scale = nn.Parameter(torch.tensor(start))
    model.bound_temperature()
    return model


def heads_over(
    widths: Widths,
    joint: int,
    settings: ModelParams | ModelRecord,
    statistics: Statistics | None,
    anchors: tuple[Projection, Projection] | None,
) -> tuple[nn.Module, nn.Module]:
    """The modules after both towers. Trained towers: a linear projection where the width is not the joint width.
    Frozen towers: a head; for a frozen CLIP, whose features already match, a head that starts as the identity.
    """
    if settings.train == "towers":
        image, text = (nn.Identity() if width == joint else nn.Linear(width, joint) for width in widths)
        return image, text

    def head(side: int) -> nn.Module:
        options = None if statistics is None else statistics[side], settings.dropout
        matches = settings.family == "clip" and set(widths) == {joint}
        made = ResidualHead(joint, *options) if matches else Head(widths[side], joint, *options)
        return made if anchors is None else Anchored(made, anchors[side], settings.anchor_weight)

    return head(0), head(1)


def save_trained(folder: Path, model: MatchingModel, settings: ModelParams, base: BaseRecord) -> None:
    """Write `model.json`, `heads.safetensors` and, of trained towers, `image/` and `text/` in transformers' format.

    `base` holds the towers that `model` trained, and their tokenizer; for heads, only their record is needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if settings.train == "towers":
        assert isinstance(base, Pretrained)
        if settings.lora.rank:
            base = replace(base, image=merged(base.image), text=merged(base.text))
        pretrained.save(folder, base)
    heads = {
        f"{side}.{name}": tensor.detach().cpu()
        for side, head in model.heads.items()
        for name, tensor in head.state_dict().items()
    }
    if model.logit_scale is not None:
        heads["logit_scale"] = model.logit_scale.detach().cpu()
    write_tensors(folder / HEADS, heads)
    same = settings.model_dump(include=set(ModelRecord.model_fields))
    made = {"width": model.width, "mean": model.mean, "std": model.std, "resize": base.resize_by(settings.resize)}
    towers = {"base": base.digest} if settings.train == "heads" else {}
    record = ModelRecord.model_validate(same | made | towers)
    write_json(folder / RECORD, record.model_dump(mode="json"))


def read_model_record(folder: Path) -> ModelRecord:
    """The record that `save_trained` wrote into `folder`.

    Raises:
        InputError: when it is missing or invalid.
    """
    return read_as(ModelRecord, folder / RECORD, "train")


def load_trained(folder: Path, feature_widths: Widths | None = None) -> MatchingModel:
    """The model that `save_trained` wrote; for frozen features if their widths are given.

    Raises:
        InputError: when a part is missing or does not fit.
    """
    record = read_model_record(folder)
    found = "towers" if feature_widths is None else "heads"
    if record.train != found:
        raise InputError(f"{folder / RECORD}: model.train was {record.train}, params.yaml says {found}")
    if feature_widths is not None:
        return _loaded(folder, record, (nn.Identity(), nn.Identity()), feature_widths)
    return _loaded(folder, record, *_towers(pretrained.load(folder), record.pooling, record.image_size))


def load_end_to_end(folder: Path, base_folder: Path) -> tuple[MatchingModel, Pretrained]:
    """The model for pixels and tokens, with its tokenizer; heads are put on the frozen towers of `base_folder`.

    Raises:
        InputError: as for `load_trained`, and for heads of other towers.
    """
    record = read_model_record(folder)
    source = pretrained.load(base_folder if record.train == "heads" else folder)
    if record.base not in (None, source.digest):
        raise InputError(
            f"{folder}: its heads were trained over other towers than those of {base_folder}; `dvc repro train` trains "
            "new ones"
        )
    return _loaded(folder, record, *_towers(source, record.pooling, record.image_size)), source


def _towers(base: Pretrained, pooling: Pooling, image_size: int) -> tuple[tuple[nn.Module, nn.Module], Widths]:
    towers = image_tower(base.image).eval(), text_tower(base.text, pooling).eval()
    return towers, tower_widths(*towers, image_size)


def _loaded(folder: Path, record: ModelRecord, towers: tuple[nn.Module, nn.Module], widths: Widths) -> MatchingModel:
    path = folder / HEADS
    weights = read_tensors(path, "train")
    try:
        model = MatchingModel(
            *towers, *_heads_for(weights, record, widths), width=record.width, mean=record.mean, std=record.std
        )
        if "logit_scale" in weights:
            model.logit_scale = nn.Parameter(weights["logit_scale"])
        for side, head in model.heads.items():
            own = {name: value for name, value in weights.items() if name.startswith(f"{side}.")}
            head.load_state_dict({name.removeprefix(f"{side}."): value for name, value in own.items()})
    except Exception as error:  # weights of another model can raise any type
        said = " ".join(str(error).split())
        raise InputError(f"{path}: does not fit {RECORD}: {said}") from None
    return model


def _heads_for(weights: Mapping[str, Tensor], record: ModelRecord, widths: Widths) -> tuple[nn.Module, nn.Module]:
    """Modules of the shapes that `weights` have, to load them into."""
    image, text = (FeatureStatistics(torch.zeros(width), torch.ones(width)) for width in widths)
    anchors, joint = None, record.width
    if record.anchor == "cca":
        anchors = (
            Projection(image, weights["image.anchor.projection_WA"], unit_first=False),
            Projection(text, weights["text.anchor.projection_WA"], unit_first=True),
        )
        joint -= anchors[0].projection_WA.shape[1]
    return heads_over(widths, joint, record, (image, text) if record.standardise else None, anchors)
