"""CLIP's towers: two halves of one model, kept in transformers' format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from pipeline.models import pretrained
from pipeline.models.build import make_model
from pipeline.models.clip import image_tower, small_clip, text_tower
from pipeline.models.small import word_tokenizer
from pipeline.models.towers import Tokens, tower_widths
from tests.training.making import params_with

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])


def whole_clip() -> CLIPModel:
    torch.manual_seed(1)
    text = {
        **SHAPE,
        "vocab_size": 9,
        "max_position_embeddings": 8,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    return CLIPModel(
        CLIPConfig(projection_dim=12, vision_config={**SHAPE, "image_size": 32, "patch_size": 16}, text_config=text)
    ).eval()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as people have it: one folder for both towers and the tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    whole_clip().save_pretrained(folder)
    word_tokenizer(["a", "red", "dot", "blue", "ring"]).save_pretrained(folder)
    return folder


def embeddings(made: pretrained.Pretrained, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    image, text = image_tower(made.image).eval(), text_tower(made.text, "masked_mean").eval()
    return normalize(image(pixels), dim=1), normalize(text(Tokens(IDS, (IDS != 0).long())), dim=1)


@torch.no_grad()
def test_both_halves_give_what_the_whole_gives_after_fetching_saving_and_loading(
    clip_folder: Path, tmp_path: Path
) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    whole = whole_clip()(input_ids=IDS, attention_mask=(IDS != 0).long(), pixel_values=pixels)
    fetched = pretrained.fetch_clip(str(clip_folder), revision=None)
    pretrained.save(tmp_path, fetched)
    for made in (fetched, pretrained.load(tmp_path)):
        image, text = embeddings(made, pixels)
        torch.testing.assert_close((image, text), (whole.image_embeds, whole.text_embeds))
        assert made.logit_scale == pytest.approx(2.6592)  # ln(1 / 0.07)
    assert tower_widths(image_tower(fetched.image), text_tower(fetched.text, "masked_mean"), 32) == (12, 12)


@torch.no_grad()
def test_each_half_serves_as_a_tower_of_its_own(clip_folder: Path) -> None:
    pixels, name = torch.randn(2, 3, 32, 32), str(clip_folder)
    whole = whole_clip()(input_ids=IDS, attention_mask=(IDS != 0).long(), pixel_values=pixels)
    fetched = pretrained.fetch(name, name, image_revision=None, text_revision=None)
    torch.testing.assert_close(embeddings(fetched, pixels), (whole.image_embeds, whole.text_embeds))


@torch.no_grad()
def test_a_caption_does_not_depend_on_its_neighbours(clip_folder: Path) -> None:
    tower = text_tower(pretrained.fetch_clip(str(clip_folder), revision=None).text, "masked_mean").eval()
    alone = torch.tensor([[2, 7, 3]])
    together = tower(Tokens(IDS, (IDS != 0).long()))[1]
    torch.testing.assert_close(tower(Tokens(alone, torch.ones_like(alone)))[0], together)


def test_a_small_clip_has_one_width_and_no_dropout() -> None:
    image, text = small_clip(
        size=32, patch=16, width=16, layers=1, heads=2, vocabulary_size=9, positions=8, special=(0, 2, 3)
    )
    assert image.visual_projection.out_features == text.text_projection.out_features == 16
    assert (image.config.attention_dropout, text.config.attention_dropout) == (0, 0)
    assert text.config.eos_token_id == 3


@pytest.mark.parametrize(("scale", "temperature"), [(4.2, 0.015), (4.7, 0.01), (None, 0.07)])
def test_a_training_starts_from_the_checkpoint_s_scale_within_its_bound(
    scale: float | None, temperature: float, clip_folder: Path
) -> None:
    base = replace(pretrained.fetch_clip(str(clip_folder), revision=None), logit_scale=scale)
    model = make_model(base, params_with(model__family="clip", model__image_size=32).model, "learned")
    assert float(model.temperature) == pytest.approx(temperature, abs=1e-5)
