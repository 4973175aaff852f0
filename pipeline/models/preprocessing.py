"""What a published tower expects of its pictures: mean, standard deviation, size, and how they are made square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.normalisation import HALF, Resize, channels

SIDES = range(16, 1025)  # pixels a side of an image that a tower may be given
USUAL_SIDE = 224  # where neither a preprocessor nor a configuration says


def normalisation_of(preprocessor: dict[str, Any] | None, config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The image model's own mean and std: of its preprocessor, of timm's configuration, or ViT's."""
    if preprocessor is not None and preprocessor.get("do_normalize") is False:
        return (HALF, HALF) if preprocessor.get("rescale_offset") else ((0.0,) * 3, (1.0,) * 3)  # ALIGN: from -1 to 1
    if preprocessor is not None:
        return channels(preprocessor.get("image_mean")), channels(preprocessor.get("image_std"))
    timm = getattr(config, "pretrained_cfg", None) or {}
    return channels(timm.get("mean")), channels(timm.get("std"))


def own_resize(preprocessor: Mapping[str, Any]) -> Resize | None:
    """What a preprocessor states; a margin between its shorter side and its crop is not kept."""
    size = preprocessor.get("size")
    if preprocessor.get("do_center_crop") or (isinstance(size, Mapping) and "shortest_edge" in size):
        return "crop"
    return None if size is None else "square"


def image_size(preprocessor: Mapping[str, Any], config: Any) -> int:
    """Pixels a side: what the preprocessor's crop leaves, else its size, the configuration's, or timm's."""
    config = getattr(config, "vision_config", config)
    timm = getattr(config, "pretrained_cfg", None) or {}
    crop = preprocessor.get("crop_size") if preprocessor.get("do_center_crop") else None
    for size in (crop, preprocessor.get("size"), getattr(config, "image_size", None), timm.get("input_size")):
        values = size.values() if isinstance(size, Mapping) else size if isinstance(size, list | tuple) else [size]
        if sides := [value for value in values if isinstance(value, int) and value in SIDES]:
            return min(sides)
    return USUAL_SIDE
