"""Dual encoders of transformers: SigLIP, Chinese-CLIP, ALIGN and others, each kept as two halves of one model.

A dual encoder has `get_image_features` and `get_text_features`, which pool and project as it was trained. A half is the
same model without the parts that the other half alone uses. CLIP itself has classes for its halves: see `clip`.

Shapes: B batch, L tokens, N patches, P pixels a side of a patch, D the joint width.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.models.preprocessing import USUAL_SIDE
from pipeline.models.towers import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PARTS = "parts_of_dual_encoder"
"""In a half's configuration: the names of its submodules."""
PADDED_TO_THE_END = ("siglip", "siglip2")
"""Trained on captions padded to all positions, without a mask; the feature is that of the last position."""


class DualImageTower(nn.Module):
    """The image half of a dual encoder."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone
        features: Any = self.backbone.get_image_features
        options = inspect.signature(features).parameters
        self._interpolates, self._takes_patches = "interpolate_pos_encoding" in options, "spatial_shapes" in options

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels, normalised, to features (B, D)."""
        vision = self.backbone.config.vision_config
        if self._takes_patches:
            inputs = patches(pixels_B3HW, vision.patch_size)
            return self.backbone.get_image_features(**inputs).pooler_output
        resized = pixels_B3HW.shape[-1] != getattr(vision, "image_size", None)
        options = {"interpolate_pos_encoding": resized} if self._interpolates else {}
        return self.backbone.get_image_features(pixel_values=pixels_B3HW, **options).pooler_output


class DualTextTower(nn.Module):
    """The text half of a dual encoder."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens to features (B, D)."""
        config = self.backbone.config
        if config.model_type not in PADDED_TO_THE_END:
            return self.backbone.get_text_features(input_ids=tokens.ids, attention_mask=tokens.mask).pooler_output
        text = config.text_config
        ids_BL = tokens.ids.masked_fill(tokens.mask == 0, text.pad_token_id)
        missing = (0, text.max_position_embeddings - ids_BL.shape[1])
        ids_BL = nn.functional.pad(ids_BL, missing, value=text.pad_token_id)
        return self.backbone.get_text_features(input_ids=ids_BL).pooler_output


def is_dual_encoder(model: object) -> bool:
    """Whether a model of transformers encodes images and texts separately."""
    return hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


def split_dual(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedModel, float | None]:
    """Both halves, and the logarithm of the learned factor on similarities, None where there is none."""
    if model.config.model_type in PADDED_TO_THE_END:
        model.config.text_config.pad_token_id = tokenizer.pad_token_id
    side = getattr(model.config.vision_config, "image_size", USUAL_SIDE)
    ids = torch.tensor([tokenizer("a")["input_ids"]])
    image = _half(model, lambda: DualImageTower(model)(torch.zeros(1, 3, side, side)))
    text = _half(model, lambda: DualTextTower(model)(Tokens(ids, torch.ones_like(ids))))
    scale, temperature = (getattr(model, name, None) for name in ("logit_scale", "temperature"))
    if scale is not None:
        return image, text, scale.item()
    return image, text, None if temperature is None else -math.log(temperature.item())  # ALIGN divides


@torch.no_grad()
def _half(model: PreTrainedModel, encode: Callable[[], object]) -> PreTrainedModel:
    """The model with those submodules alone that `encode` calls, and without parameters of its own."""
    called: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, part in model.named_children()
    ]
    encode()
    for hook in hooks:
        hook.remove()
    half = copy.copy(model)
    half.config = copy.deepcopy(model.config)
    setattr(half.config, PARTS, sorted(set(called)))
    return _reduced(half, called)


def whole_class(config: Any) -> type[Any]:
    """The class of transformers for a configuration."""
    from transformers import MODEL_MAPPING

    found: Any = MODEL_MAPPING[type(config)]
    return found if isinstance(found, type) else found[0]  # a few configurations have several classes


def half_class(config: Any, parts: Sequence[str]) -> type[Any]:
    """The class of a saved half: the configuration's own with these submodules alone."""
    whole = whole_class(config)

    def build(self: Any, config: Any) -> None:
        super(half, self).__init__(config)
        _reduced(self, parts)

    half: Any = type(whole.__name__, (whole,), {"__init__": build})
    return half


def _reduced(model: Any, parts: Sequence[str]) -> Any:
    model._modules = {name: part for name, part in model._modules.items() if name in parts}
    model._parameters = {}
    return model


def patches(pixels_B3HW: Tensor, side: int) -> dict[str, Tensor]:
    """What SigLIP 2 for any resolution takes: patches (B, N, 3 P²), their mask, and the grid's shape; channels last."""
    count, channels, height, width = pixels_B3HW.shape
    rows, columns = height // side, width // side
    cut = pixels_B3HW[:, :, : rows * side, : columns * side].reshape(count, channels, rows, side, columns, side)
    patch_BNE = cut.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
    return {
        "pixel_values": patch_BNE,
        "pixel_attention_mask": torch.ones(patch_BNE.shape[:2], dtype=torch.long, device=patch_BNE.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * count, device=patch_BNE.device),
    }
