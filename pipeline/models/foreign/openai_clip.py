"""Map OpenAI's names of CLIP's parameters to transformers'. Only for CLIPs with a ViT as image tower."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPConfig

HEAD_WIDTH = 64  # in every CLIP of OpenAI; the number of heads follows from the width

# Values that are not parameters, in OpenAI's archives and open_clip's files.
_NO_PARAMETERS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
_NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' own spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = {"text_projection", "visual.proj"}  # OpenAI multiplies from the right
_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_LAYER_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def openai_clip_config(state: Mapping[str, Tensor]) -> CLIPConfig:
    """The configuration from the shapes; the end token is the vocabulary's last entry, as in OpenAI's argmax.

    Raises:
        InputError: naming the parameter that is missing or does not have the shape of a ViT CLIP's.
    """
    from transformers import CLIPConfig

    if any(name.startswith("visual.layer1.") for name in state):
        raise InputError("a CLIP with a ResNet as its image tower; only those with a ViT can be converted")
    width, _, patch, _ = _shape(state, "visual.conv1.weight", 4)
    positions, _ = _shape(state, "visual.positional_embedding", 2)
    vocabulary, text_width = _shape(state, "token_embedding.weight", 2)
    length, _ = _shape(state, "positional_embedding", 2)
    _, joint_width = _shape(state, "text_projection", 2)
    grid = isqrt(positions - 1)
    if grid * grid != positions - 1:
        raise InputError(f"visual.positional_embedding: {positions} positions, expected a square number and one more")
    return CLIPConfig(
        projection_dim=joint_width,
        vision_config={
            **_tower_sizes(state, "visual.", width),
            "patch_size": patch,
            "image_size": patch * grid,
            "projection_dim": joint_width,
        },
        text_config={
            **_tower_sizes(state, "", text_width),
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "projection_dim": joint_width,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        },
    )


def openai_to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's parameters with the names and shapes of transformers' `CLIPModel`, in their own precision.

    Raises:
        InputError: naming a parameter that no OpenAI CLIP with a ViT has.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in _NO_PARAMETERS:
            continue
        if name in _NAMES:
            converted[_NAMES[name]] = tensor.T if name in _TRANSPOSED else tensor
        else:
            converted |= _layer_parameters(name, tensor)
    return converted


def _layer_parameters(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if found := _LAYER.fullmatch(name):
        visual, number, rest = found.groups()
        layer = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
        part, _, kind = rest.rpartition(".")
        if part in _LAYER_PARTS and kind in ("weight", "bias"):
            return {f"{layer}.{_LAYER_PARTS[part]}.{kind}": tensor}
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias") and len(tensor) % 3 == 0:
            kind = rest.removeprefix("attn.in_proj_")
            return {
                f"{layer}.self_attn.{side}_proj.{kind}": third
                for side, third in zip("qkv", tensor.chunk(3), strict=True)
            }
    raise InputError(f"{name[:80]!r} of shape {tuple(tensor.shape)}: no parameter of an OpenAI CLIP with a ViT")


def _tower_sizes(state: Mapping[str, Tensor], prefix: str, width: int) -> dict[str, int | str]:
    numbers = {int(found[2]) for name in state if (found := _LAYER.fullmatch(name)) and (found[1] or "") == prefix}
    inner, _ = _shape(state, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)
    for number in range(len(numbers)):
        if number not in numbers:
            raise InputError(f"no parameter of {prefix}transformer.resblocks.{number}, but of {max(numbers)}")
    heads = max(1, width // HEAD_WIDTH)
    if width % heads:
        raise InputError(f"{prefix}transformer: a width of {width}, expected a multiple of {HEAD_WIDTH}")
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(numbers),
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu",
    }


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise InputError(f"no parameter {name!r}, which every OpenAI CLIP with a ViT has")
    shape = tuple(state[name].shape)
    if len(shape) != dimensions:
        raise InputError(f"{name}: shape {shape}, expected {dimensions} dimensions")
    return shape
