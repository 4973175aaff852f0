"""Dual encoders as the hub has them: one folder with both towers, the tokenizer and the preprocessor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import BertConfig, PreTrainedModel, ViTConfig

from pipeline.errors import InputError
from pipeline.models import pretrained
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.small import word_tokenizer
from pipeline.models.towers import Tokens

SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS, POSITIONS, PAD = ("a", "red", "dot", "blue", "ring"), 8, 0
TEXT: dict[str, Any] = SHAPE | {
    "vocab_size": 9,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION: dict[str, Any] = SHAPE | {"image_size": 32, "patch_size": 16}
PAIR: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 12}
ALIGN = {
    "text_config": TEXT,
    "projection_dim": 32,
    "vision_config": {
        "image_size": 32,
        "hidden_dim": 32,
        "kernel_sizes": [3],
        "in_channels": [8],
        "out_channels": [8],
        "strides": [1],
        "num_block_repeats": [1],
        "expand_ratios": [1],
        "depthwise_padding": [],
        "width_coefficient": 0.25,
    },
}
NAFLEX = {"text_config": TEXT | {"projection_size": 32}, "vision_config": SHAPE | {"num_patches": 4, "patch_size": 16}}
KINDS: dict[str, Any] = {
    "SiglipModel": {"text_config": TEXT | {"projection_size": 32}, "vision_config": VISION},
    "Siglip2Model": NAFLEX,
    "ChineseCLIPModel": PAIR,
    "AltCLIPModel": PAIR | {"text_config": TEXT | {"project_dim": 32}},
    "MetaClip2Model": PAIR,
    "AlignModel": ALIGN,
}
CAPTIONS = ("a red dot", "a")


def whole(kind: str) -> PreTrainedModel:
    """A model with random weights, none of them 0 or 1."""
    torch.manual_seed(1)
    if kind == "VisionTextDualEncoderModel":
        config: Any = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            ViTConfig(**VISION), BertConfig(**TEXT), projection_dim=12
        )
    else:
        config = getattr(transformers, kind).config_class(**KINDS[kind])
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def published(kind: str, folder: Path) -> PreTrainedModel:
    model = whole(kind)
    model.save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    return model


def expected(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What the model's own documentation says to call: SigLIPs with captions padded to the last position, no mask."""
    tokenizer = word_tokenizer(WORDS)
    if model.config.model_type.startswith("siglip"):
        text = {
            "input_ids": tokenizer(CAPTIONS, padding="max_length", max_length=POSITIONS, return_tensors="pt")[
                "input_ids"
            ]
        }
    else:
        text = dict(tokenizer(CAPTIONS, padding=True, return_tensors="pt"))
    image = {"pixel_values": pixels}
    if model.config.model_type == "siglip2":
        from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

        cut = torch.stack([convert_image_to_patches(one, 16) for one in pixels])
        image = {
            "pixel_values": cut,
            "pixel_attention_mask": torch.ones(cut.shape[:2]),
            "spatial_shapes": torch.tensor([[2, 2]] * 2),
        }
    return model.get_image_features(**image).pooler_output, model.get_text_features(**text).pooler_output


@torch.no_grad()
@pytest.mark.parametrize("kind", [*KINDS, "VisionTextDualEncoderModel"])
def test_a_dual_encoder_gives_what_its_own_methods_give_after_fetching_saving_and_loading(
    kind: str, tmp_path: Path
) -> None:
    model, pixels = published(kind, tmp_path / "hub"), torch.randn(2, 3, 32, 32)
    fetched = pretrained.fetch_clip(str(tmp_path / "hub"), revision=None)
    pretrained.save(tmp_path / "base", fetched)
    rows = word_tokenizer(WORDS)(CAPTIONS, padding=True, return_tensors="pt")
    tokens = Tokens(rows["input_ids"], rows["attention_mask"])
    learned: Any = model
    scale = -learned.temperature.log() if kind == "AlignModel" else learned.logit_scale
    for made in (fetched, pretrained.load(tmp_path / "base")):
        image, text = image_tower(made.image).eval(), text_tower(made.text, "masked_mean").eval()
        torch.testing.assert_close((image(pixels), text(tokens)), expected(model, pixels), rtol=1e-4, atol=1e-5)
        assert made.logit_scale == pytest.approx(float(scale), abs=1e-4)
        kept = [sum(part.numel() for part in tower.parameters()) for tower in (image, text)]
        assert sum(kept) < sum(part.numel() for part in model.parameters())
        assert not {id(part) for part in image.parameters()} & {id(part) for part in text.parameters()}
    half = pretrained.fetch(*[str(tmp_path / "hub")] * 2, image_revision=None, text_revision=None)
    torch.testing.assert_close(image_tower(half.image)(pixels), expected(model, pixels)[0], rtol=1e-4, atol=1e-5)


def test_aligns_pixels_are_between_minus_one_and_one(tmp_path: Path) -> None:
    published("AlignModel", tmp_path)
    own = {"do_normalize": False, "rescale_offset": True, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    fetched = pretrained.fetch_clip(str(tmp_path), revision=None)
    assert (fetched.mean, fetched.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("limit", [None, 5, 100])
def test_captions_are_cut_at_the_towers_own_positions(limit: int | None, tmp_path: Path) -> None:
    published("SiglipModel", tmp_path)
    tokenizer = word_tokenizer(WORDS)
    if limit is not None:
        tokenizer.model_max_length = limit
    tokenizer.save_pretrained(tmp_path)
    assert pretrained.fetch_clip(str(tmp_path), revision=None).tokenizer.model_max_length == (5 if limit == 5 else 8)


def test_robertas_positions_start_behind_its_padding(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(**(TEXT | {"pad_token_id": 1}))
    transformers.RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    word_tokenizer(WORDS).save_pretrained(tmp_path)
    _, tokenizer, _ = pretrained.fetch_text("model.text", str(tmp_path))
    assert tokenizer.model_max_length == 6


def test_a_single_tower_is_no_dual_encoder(tmp_path: Path) -> None:
    transformers.BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    word_tokenizer(WORDS).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.family is clip, but a bert does not encode both images and captions"):
        pretrained.fetch_clip(str(tmp_path), revision=None)


@pytest.mark.parametrize("family", ["clip", "vit_bert"])
def test_a_dual_encoder_without_a_tokenizer_is_refused_by_name(family: str, tmp_path: Path) -> None:
    whole("SiglipModel").save_pretrained(tmp_path)
    name = str(tmp_path)
    with pytest.raises(InputError, match=r"^model\.image = '.*': has no tokenizer; tokenizer\.json or vocab\.txt"):
        if family == "clip":
            pretrained.fetch_clip(name, revision=None)
        else:
            pretrained.fetch_image("model.image", name)
