"""The model that is trained: made from the base towers, saved, loaded again for evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.features.inputs import Inputs
from pipeline.files import write_json, write_tensors
from pipeline.models import pretrained
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.pretrained import Pretrained
from pipeline.models.towers import Head, MatchingModel, ResidualHead, tower_widths
from pipeline.params import ModelParams

FIRST_TEMPERATURE = 0.07  # where CLIP's began (Radford et al. 2021)


def model_over_towers(base: Pretrained, model: ModelParams) -> MatchingModel:
    """Both towers end to end, with a projection where widths differ."""
    towers = image_tower(base.image), text_tower(base.text, model.pooling)
    widths = tower_widths(towers[0].eval(), towers[1].eval(), model.image_size)
    return MatchingModel(*towers, *heads_over(widths, model.width or min(widths), model.train, model.family))


def model_over_features(image_width: int, text_width: int, model: ModelParams) -> MatchingModel:
    """A small head a side, over features computed before."""
    widths = (image_width, text_width)
    heads = heads_over(widths, model.width or min(widths), model.train, model.family)
    return MatchingModel(nn.Identity(), nn.Identity(), *heads)


def heads_over(widths: tuple[int, int], joint: int, train: str, family: str) -> tuple[nn.Module, nn.Module]:
    """What stands over both towers: a linear projection only on a side whose width is not the joint one, or, over
    frozen towers, a head; over a frozen CLIP, whose features match already, one that begins as the identity.
    """
    if train == "towers":
        image, text = (nn.Identity() if width == joint else nn.Linear(width, joint) for width in widths)
        return image, text
    if family == "clip" and set(widths) == {joint}:
        return ResidualHead(joint), ResidualHead(joint)
    return Head(widths[0], joint), Head(widths[1], joint)


def make_model(base: Pretrained | None, model: ModelParams, inputs: Inputs) -> MatchingModel:
    """The model for these inputs; heads and projections start from torch's global generator."""
    if inputs.frozen:
        texts = inputs.texts([0], training=True)
        assert isinstance(texts, torch.Tensor)
        return model_over_features(inputs.images([0]).shape[1], texts.shape[1], model)
    assert base is not None
    return model_over_towers(base, model)


def learn_temperature(model: MatchingModel, base: Pretrained) -> None:
    """Make the temperature a parameter of the model, begun at CLIP's own or at `FIRST_TEMPERATURE`."""
    begin = -math.log(FIRST_TEMPERATURE) if base.logit_scale is None else base.logit_scale
    model.logit_scale = nn.Parameter(torch.tensor(begin))


def joint_width(model: MatchingModel, inputs: Inputs, mean: list[float], std: list[float]) -> int:
    """D, asked of the model itself."""
    from pipeline.features.encoding import model_images

    with torch.inference_mode():
        return model.encode_image(model_images(inputs.images([0]), mean, std)).shape[1]


def save_trained(folder: Path, model: MatchingModel, base: Pretrained | None, record: dict[str, Any]) -> None:
    """Write `model.json`, `heads.safetensors` and, of trained towers, `image/` and `text/` in transformers' format."""
    if base is not None:
        pretrained.save(folder, base)
    heads = {
        f"{side}.{name}": tensor.detach().cpu()
        for side, head in (("image", model.image_head), ("text", model.text_head))
        for name, tensor in head.state_dict().items()
    }
    if model.logit_scale is not None:
        heads["logit_scale"] = model.logit_scale.detach().cpu()
    write_tensors(folder / "heads.safetensors", heads)
    write_json(folder / "model.json", record)


def as_trained(folder: Path, model: ModelParams) -> ModelParams:
    """The model's parameters with the pooling that its weights were trained with."""
    record = pretrained.read_record(folder / "model.json")
    return model.model_copy(update={"pooling": record.get("pooling", model.pooling)})


def load_trained(folder: Path, model: ModelParams, inputs: Inputs) -> MatchingModel:
    """Read what `save_trained` wrote.

    Raises:
        InputError: when a part is missing or does not fit the inputs.
    """
    base = None if inputs.frozen else pretrained.load(folder)
    trained = make_model(base, model, inputs)
    load_heads(folder, trained)
    return trained


def load_heads(folder: Path, model: MatchingModel) -> None:
    """Put the trained heads of `folder` into `model`.

    Raises:
        InputError: when they are missing or do not fit.
    """
    from safetensors.torch import load_file

    path = folder / "heads.safetensors"
    try:
        heads = load_file(path)
        if "logit_scale" in heads:
            model.logit_scale = nn.Parameter(heads["logit_scale"])
        for side, head in (("image", model.image_head), ("text", model.text_head)):
            head.load_state_dict(
                {name.removeprefix(f"{side}."): value for name, value in heads.items() if name.startswith(f"{side}.")}
            )
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `dvc repro train` makes it") from None
    except Exception as error:  # whatever a damaged header provokes is the file's fault
        said = " ".join(str(error).split())
        raise InputError(f"{path}: does not fit the model that params.yaml describes: {said}") from None
