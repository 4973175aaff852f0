"""Image and text towers, each mean-pooled, projected where widths differ, and L2-normalised.

Shapes: B batch, L tokens, W a tower's own width, D the joint width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.errors import InputError
from pipeline.models.normalisation import HALF, normalised

Pooling = Literal["masked_mean", "mean_all"]
FIRST_TEMPERATURE = 0.07  # CLIP's initial value (Radford et al. 2021)
LARGEST_LOGIT_SCALE = math.log(100)  # a learned temperature of 0.01 (Radford et al. 2021)
TAKE_READY_MASK = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert")
"""Models whose fused attention takes a mask (B, 1, 1, L) as it is. transformers reads a mask (B, L) on the host, to see
whether it can be left out, and the host waits for the GPU."""


class Tokens(NamedTuple):
    """A batch of tokenised captions: ids (B, L) and mask (B, L), 1 on tokens and 0 on padding."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Tokens:
        """The same on another device."""
        return Tokens(*(part.to(device, non_blocking=non_blocking) for part in self))


class ImageTower(nn.Module):
    """A transformers image model whose last hidden states are averaged over positions (or over the feature map)."""

    def __init__(self, backbone: nn.Module) -> None:
        """Use `backbone` without its own pooler, which mean pooling does not need."""
        super().__init__()
        self.backbone = _without_pooler(backbone)
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
        # timm's Swin, MambaOut, … have the channels last, and say so
        timm_format = getattr(getattr(backbone, "timm_model", None), "output_fmt", None)
        self._map_dimensions = (1, 2) if timm_format == "NHWC" else (2, 3)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels, normalised, to features (B, W)."""
        options = {"interpolate_pos_encoding": True} if self._interpolates and self._resized(pixels_B3HW) else {}
        hidden = self.backbone(pixel_values=pixels_B3HW, **options).last_hidden_state
        return hidden.mean(dim=self._map_dimensions) if hidden.ndim == 4 else hidden.mean(dim=1)

    def _resized(self, pixels_B3HW: Tensor) -> bool:
        return pixels_B3HW.shape[-1] != getattr(self.backbone.config, "image_size", pixels_B3HW.shape[-1])


class TextTower(nn.Module):
    """A BERT-like transformers model whose last hidden states are averaged.

    Args:
        backbone: the model.
        pooling: "masked_mean": over a caption's tokens; "mean_all": also over padding, as in FNE's published code; a
            caption's embedding then depends on the longest caption of its batch.
    """

    def __init__(self, backbone: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.backbone = _without_pooler(backbone)
        self.pooling = pooling
        config: Any = backbone.config
        self._ready_mask = config.model_type in TAKE_READY_MASK and config._attn_implementation == "sdpa"

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens to features (B, W)."""
        mask = tokens.mask[:, None, None, :].bool() if self._ready_mask else tokens.mask
        hidden_BLW = self.backbone(input_ids=tokens.ids, attention_mask=mask).last_hidden_state
        if self.pooling == "mean_all":
            return hidden_BLW.mean(dim=1)
        mask_BL1 = tokens.mask[:, :, None].to(hidden_BLW.dtype)
        return (hidden_BLW * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1).clamp(min=1)


class MatchingModel(nn.Module):
    """Two towers into one space; a cosine similarity near 1 is a match.

    Args:
        image_tower: images to features; `nn.Identity` for features computed before.
        text_tower: tokens to features; also `nn.Identity`.
        image_head: features to the joint width: a projection, a `Head`, or `nn.Identity`.
        text_head: same as `image_head`.
        width: D, of the joint space.
        mean: of the image tower's pixels, per channel.
        std: their standard deviation, per channel.
        temperature: similarities are divided by it, unless it is learned.

    With a learned temperature, `logit_scale` is the logarithm of the factor on similarities, and a training calls
    `bound_temperature` after each step. `logit_bias` is the sigmoid loss's learned bias; it changes no ranking, and
    is not saved with the model.
    """

    def __init__(
        self,
        image_tower: nn.Module,
        text_tower: nn.Module,
        image_head: nn.Module,
        text_head: nn.Module,
        *,
        width: int,
        mean: Sequence[float] = HALF,
        std: Sequence[float] = HALF,
        temperature: float = FIRST_TEMPERATURE,
    ) -> None:
        super().__init__()
        self.width, self.mean, self.std = width, tuple(mean), tuple(std)
        self.fixed_temperature = temperature
        self.logit_scale: nn.Parameter | None = None
        self.logit_bias: nn.Parameter | None = None
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.image_head = image_head
        self.text_head = text_head

    def forward(self, images: Tensor, texts: Tensor | Tokens) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and texts, (B, D) each, float32 also in mixed precision."""
        return self.encode_image(images), self.encode_text(texts)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What comes after each tower, by side."""
        return {"image": self.image_head, "text": self.text_head}

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return next(self.parameters()).device

    @property
    def temperature(self) -> float | Tensor:
        """Similarities are divided by this: the learned temperature, if there is one."""
        return self.fixed_temperature if self.logit_scale is None else (-self.logit_scale).exp()

    @torch.no_grad()
    def bound_temperature(self) -> None:
        """Keep a learned temperature at or above 0.01; call it after each step.

        The parameter is bounded, not its value in the forward pass: a bound there has gradient 0, and a temperature at
        the bound, where OpenAI's weights start, would never change.
        """
        if self.logit_scale is not None:
            self.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)

    def train(self, mode: bool = True) -> MatchingModel:
        """Set the mode; parts of which no parameter is trained stay in evaluation mode, without dropout."""
        super().train(mode)
        if mode and not all(parameter.requires_grad for parameter in self.parameters()):
            for part in self.modules():
                own = [parameter.requires_grad for parameter in part.parameters()]
                if own and not any(own):
                    part.eval()
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """The image tower's input: uint8 pixels (B, 3, H, W) are normalised, everything else is returned unchanged."""
        return normalised(images, self.mean, self.std) if images.dtype == torch.uint8 else images

    def encode_image(self, images: Tensor) -> Tensor:
        """Pixels (uint8, or already normalised) or frozen features to unit vectors (B, D)."""
        return unit(self.image_head(self.image_tower(self.normalise(images))))

    def encode_text(self, texts: Tensor | Tokens) -> Tensor:
        """Tokens or frozen features to unit vectors (B, D)."""
        return unit(self.text_head(self.text_tower(texts)))


def recompute_activations(tower: nn.Module, name: str) -> None:
    """Make a tower recompute its activations in the backward pass instead of storing them (Chen et al. 2016).

    Raises:
        InputError: when the model `name` does not support it.
    """
    backbone: Any = tower.backbone
    # half a dual encoder looks for its other half: ask its parts
    parts = backbone.children() if hasattr(backbone, "get_text_features") else [backbone]
    supporting = [part for part in parts if getattr(part, "supports_gradient_checkpointing", False)]
    if not supporting:
        raise InputError(
            f"train.gradient_checkpointing = True: {type(backbone).__name__} of model.{name} does not support it"
        )
    for part in supporting:
        # the re-entrant kind does not support autograd.grad, which NPC's siamese step needs
        part.activation_checkpointing_enable({"use_reentrant": False})


def unit(feature_BD: Tensor) -> Tensor:
    """Normalise to length 1, in float32 or wider: rounding in half precision would change near ties."""
    return normalize(feature_BD if feature_BD.dtype == torch.float64 else feature_BD.float(), dim=1)


@torch.no_grad()
def tower_widths(image_tower: nn.Module, text_tower: nn.Module, image_size: int) -> tuple[int, int]:
    """The real output widths of the towers, since configurations name them differently."""
    device = next(image_tower.parameters()).device
    pixels = torch.zeros(1, 3, image_size, image_size, device=device)
    one_token = torch.ones(1, 1, dtype=torch.long, device=device)
    return image_tower(pixels).shape[1], text_tower(Tokens(one_token, one_token)).shape[1]


def _without_pooler(backbone: nn.Module) -> nn.Module:
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):  # a ResNet's has none and is always called
        backbone.pooler = None  # type: ignore[assignment]
    return backbone
