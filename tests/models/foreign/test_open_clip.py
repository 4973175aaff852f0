"""A CLIP in open_clip's hub layout is a dual encoder as any other. The oracle is OpenAI's forward pass, written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.base.links import link_local_towers
from pipeline.errors import InputError
from pipeline.models import pretrained
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD
from pipeline.models.small import word_tokenizer
from pipeline.models.towers import Tokens
from tests.models.foreign.test_openai_clip import openai_clip, openai_image, openai_text
from tests.models.test_pretrained import COMMIT, cached

WORDS = [f"w{number}" for number in range(16)]  # with four special tokens, the 20 of the small CLIP
VISION = {"image_size": 8, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4}
TEXT = {"context_length": 7, "vocab_size": 20, "width": 12, "heads": 3, "layers": 3}
MODEL: dict[str, Any] = {"embed_dim": 10, "vision_cfg": VISION, "text_cfg": TEXT}
OWN: dict[str, Any] = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "resize_mode": "squash"}


def published(
    folder: Path, model: dict[str, Any], own: dict[str, Any], *, pickled: bool = False, text_width: int = 12
) -> dict[str, Tensor]:
    """As open_clip's push_to_hf_hub writes it."""
    torch.manual_seed(0)
    state = openai_clip(text_width=text_width)
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": own}))
    if pickled:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(state, folder / "open_clip_model.safetensors")
    word_tokenizer(WORDS).save_pretrained(folder)
    return state


@torch.no_grad()
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("pickled", [True, False])
def test_it_encodes_as_openais_code(quick: bool, pickled: bool, tmp_path: Path) -> None:
    state = published(tmp_path / "clip", MODEL | {"quick_gelu": quick}, OWN, pickled=pickled)
    fetched = pretrained.fetch_clip(str(tmp_path / "clip"), revision=None)
    assert (fetched.mean, fetched.std, fetched.resize) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), "square")
    assert fetched.logit_scale == pytest.approx(float(state["logit_scale"]))
    assert fetched.tokenizer.model_max_length == 7
    pretrained.save(tmp_path / "base", fetched)
    pixels, ids = torch.randn(2, 3, 8, 8), torch.tensor([[2, 5, 6, 19, 0, 0, 0], [2, 7, 8, 9, 10, 11, 19]])
    expected = openai_image(state, pixels, 2, quick), openai_text(state, ids, 3, quick)
    for made in (fetched, pretrained.load(tmp_path / "base")):
        image, text = image_tower(made.image).eval(), text_tower(made.text, "masked_mean").eval()
        found = image(pixels), text(Tokens(ids, torch.ones_like(ids)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_text_tower_without_a_number_of_heads_has_open_clips_eight(tmp_path: Path) -> None:
    text = {key: value for key, value in TEXT.items() if key != "heads"} | {"width": 16}
    state = published(tmp_path / "clip", MODEL | {"text_cfg": text, "quick_gelu": True}, OWN, text_width=16)
    tower = text_tower(pretrained.fetch_clip(str(tmp_path / "clip"), revision=None).text, "masked_mean").eval()
    ids = torch.tensor([[2, 5, 6, 19, 0, 0, 0], [2, 7, 8, 9, 10, 11, 19]])
    found = tower(Tokens(ids, torch.ones_like(ids)))
    torch.testing.assert_close(found, openai_text(state, ids, 8), rtol=1e-4, atol=1e-4)


def test_without_preprocessing_it_is_openais(tmp_path: Path) -> None:
    published(tmp_path / "clip", MODEL, {})
    encoder = pretrained.fetch_image("evidence.image", str(tmp_path / "clip"))
    assert (encoder.mean, encoder.std, encoder.resize) == (CLIP_MEAN, CLIP_STD, "crop")


def test_its_id_on_the_hub_is_named_as_in_open_clips_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(cached(tmp_path, "lab/clip"), MODEL, OWN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetched = pretrained.fetch_clip("hf-hub:lab/clip", revision=None)
    assert fetched.source["image"] == {"name": "hf-hub:lab/clip", "revision": COMMIT}


@pytest.mark.parametrize(
    ("model", "own", "reason"),
    [
        (
            MODEL | {"vision_cfg": {"timm_model_name": "vit_so400m"}},
            {},
            "vision_cfg.timm_model_name = 'vit_so400m'",
        ),
        (
            MODEL | {"text_cfg": {"hf_model_name": "xlm-roberta"}},
            {},
            "text_cfg.hf_model_name = 'xlm-roberta'",
        ),
        (MODEL | {"custom_text": True}, {}, "model_cfg.custom_text = True: not CLIP's own architecture"),
        (
            MODEL | {"vision_cfg": VISION | {"layers": [3, 4, 6, 3]}},
            {},
            r"vision_cfg.layers = \[3, 4, 6, 3\]",
        ),
        ({"embed_dim": 10, "text_cfg": TEXT}, {}, "no section vision_cfg"),
        (MODEL, {"resize_mode": "longest"}, "preprocess_cfg.resize_mode = 'longest': pictures can be made for"),
    ],
)
def test_another_architecture_is_refused_before_its_weights_are_fetched(
    model: dict[str, Any], own: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    published(tmp_path / "clip", model, own)
    (tmp_path / "clip/open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"^model.image = '{tmp_path}/clip': open_clip_config.json: {reason}"):
        pretrained.fetch_clip(str(tmp_path / "clip"), revision=None)


def test_missing_and_damaged_weights_are_named(tmp_path: Path) -> None:
    published(tmp_path / "clip", MODEL, {})
    weights = tmp_path / "clip/open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"open_clip_model.safetensors: not read: "):
        pretrained.fetch_clip(str(tmp_path / "clip"), revision=None)
    weights.unlink()
    with pytest.raises(InputError, match=r"clip': has no open_clip_model.safetensors or open_clip_pytorch_model.bin"):
        pretrained.fetch_clip(str(tmp_path / "clip"), revision=None)


def test_pickled_weights_are_linked_for_dvc(tmp_path: Path) -> None:
    published(tmp_path / "clip", MODEL, {}, pickled=True)
    link_local_towers(tmp_path / "links", {"model.image": str(tmp_path / "clip")})
    assert any(link.name.endswith("open_clip_pytorch_model.bin") for link in (tmp_path / "links").iterdir())
