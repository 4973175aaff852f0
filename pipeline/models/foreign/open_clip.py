"""Models in the layout in which open_clip publishes them: its configuration, and weights under OpenAI's names.

Only CLIP's own architecture, a ViT and a causal text transformer, is read, as transformers' `CLIPModel`. The library
open_clip itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.models.foreign.checkpoints import clip_model, read_checkpoint
from pipeline.models.foreign.openai_clip import HEAD_WIDTH, openai_clip_config
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from transformers import CLIPModel

PREFIX = "hf-hub:"  # of a hub id in open_clip's commands
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TEXT_HEADS = 8  # open_clip's default, for any width
# What CLIP's own architecture sets. Any other key that is set describes another one.
KEYS = {
    "model_cfg": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale"},
    "vision_cfg": {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"},
    "text_cfg": {
        "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio",
        "hf_tokenizer_name", "tokenizer_kwargs",
    },
}  # fmt: skip
DEFAULTS = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "text_arch": ("clip",)}
ONLY = {"resize_mode": ("shortest", "squash"), "interpolation": ("bicubic",), "mode": ("RGB",)}


def read_open_clip(config: Mapping[str, Any], weights: Path) -> CLIPModel:
    """The model, in evaluation mode, float32, of a checked configuration; `weights` is a file named as in `WEIGHTS`.

    A pickle is read as data alone.

    Raises:
        InputError: for weights that are damaged, or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights) if weights.suffix == ".safetensors" else read_checkpoint(weights).weights
    except SafetensorError as error:
        raise InputError(f"{weights}: not read: {error}") from None
    made: Any = openai_clip_config(state)
    model = config["model_cfg"]
    vision, text = made.vision_config, made.text_config
    vision.hidden_act = text.hidden_act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    vision.num_attention_heads = vision.hidden_size // model["vision_cfg"].get("head_width", HEAD_WIDTH)
    text.num_attention_heads = model["text_cfg"].get("heads", TEXT_HEADS)
    return clip_model(made, state)


def preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    """What open_clip's configuration says about pictures, in the words of transformers' preprocessor_config.json."""
    own, side = config.get("preprocess_cfg", {}), config["model_cfg"]["vision_cfg"].get("image_size")
    square = {"height": side, "width": side}
    crop = own.get("resize_mode", "shortest") == "shortest"
    return {
        "image_mean": own.get("mean", CLIP_MEAN),
        "image_std": own.get("std", CLIP_STD),
        "do_center_crop": crop,
        "crop_size": square,
        "size": {"shortest_edge": side} if crop else square,
    }


def check(config: Mapping[str, Any]) -> None:
    """Refuse what cannot be read.

    Raises:
        InputError: for another architecture, or for other preprocessing than this project has, naming the key.
    """
    model = config.get("model_cfg", {})
    for section, known in KEYS.items():
        part = model if section == "model_cfg" else model.get(section)
        if not isinstance(part, Mapping) or not part:
            raise InputError(f"{CONFIG}: no section {section}")
        for key, value in part.items():
            unusual = key not in known and value not in (None, False, *DEFAULTS.get(key, ()))
            if unusual or (key == "layers" and not isinstance(value, int)):  # a ResNet has a list
                raise InputError(
                    f"{CONFIG}: {section}.{key} = {value!r}: not CLIP's own architecture, the only one of open_clip "
                    "that is read; many others are on the hub in transformers' format"
                )
    for key, values in ONLY.items():
        value = config.get("preprocess_cfg", {}).get(key, values[0])
        if value not in values:
            raise InputError(f"{CONFIG}: preprocess_cfg.{key} = {value!r}: pictures can be made for {values} alone")
