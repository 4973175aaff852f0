"""CLIP's two towers (Radford et al. 2021): fetched as one model, saved as two in transformers' format.

Shapes: B batch, L tokens, D the joint width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.models.dual import DualImageTower, DualTextTower, is_dual_encoder
from pipeline.models.towers import ImageTower, TextTower, Tokens

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    from pipeline.models.towers import Pooling

VISION, TEXT = "clip_vision_model", "clip_text_model"  # transformers' model types


class ClipImageTower(nn.Module):
    """CLIP's image tower with its projection."""

    def __init__(self, backbone: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels, normalised, to features (B, D)."""
        resized = pixels_B3HW.shape[-1] != self.backbone.config.image_size
        return self.backbone(pixel_values=pixels_B3HW, interpolate_pos_encoding=resized).image_embeds


class ClipTextTower(nn.Module):
    """CLIP's text tower with its projection; its feature is taken at the closing token."""

    def __init__(self, backbone: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens to features (B, D).

        Without the mask, which transformers would read on the host: attention is causal, and padding is behind the
        closing token.
        """
        return self.backbone(input_ids=tokens.ids).text_embeds


def image_tower(backbone: nn.Module) -> nn.Module:
    """The tower for any image backbone."""
    if is_dual_encoder(backbone):
        return DualImageTower(backbone)
    return ClipImageTower(backbone) if _type(backbone) == VISION else ImageTower(backbone)  # type: ignore[arg-type]


def text_tower(backbone: nn.Module, pooling: Pooling) -> nn.Module:
    """The tower for any text backbone; a dual encoder's has its own pooling."""
    if is_dual_encoder(backbone):
        return DualTextTower(backbone)
    return ClipTextTower(backbone) if _type(backbone) == TEXT else TextTower(backbone, pooling)  # type: ignore[arg-type]


def split_clip(model: CLIPModel) -> tuple[CLIPVisionModelWithProjection, CLIPTextModelWithProjection, float]:
    """Both towers with their projections, and the logarithm of the learned scale of similarities."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    config, state = model.config, model.state_dict()
    vision, words = config.vision_config, config.text_config
    assert isinstance(vision, CLIPVisionConfig) and isinstance(words, CLIPTextConfig) and config.projection_dim
    # the joint configuration's width is the right one; those of the two parts may differ
    vision.projection_dim = words.projection_dim = config.projection_dim
    image, text = CLIPVisionModelWithProjection(vision), CLIPTextModelWithProjection(words)
    for tower in (image, text):
        tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return image, text, model.logit_scale.item()


def small_clip(
    *,
    size: int,
    patch: int,
    width: int,
    layers: int,
    heads: int,
    vocabulary_size: int,
    positions: int,
    special: tuple[int, int, int],
) -> tuple[CLIPVisionModelWithProjection, CLIPTextModelWithProjection]:
    """Two towers from random weights, without dropout; `special`: the ids of padding, opening and closing token."""
    from transformers import CLIPConfig, CLIPModel

    pad, start, end = special
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": width,
    }
    config = CLIPConfig(
        projection_dim=width,
        vision_config={**shape, "image_size": size, "patch_size": patch},
        text_config={
            **shape,
            "vocab_size": vocabulary_size,
            "max_position_embeddings": positions,
            "pad_token_id": pad,
            "bos_token_id": start,
            "eos_token_id": end,
        },
    )
    image, text, _ = split_clip(CLIPModel(config))
    return image, text


def _type(backbone: nn.Module) -> str:
    return str(getattr(getattr(backbone, "config", None), "model_type", ""))
