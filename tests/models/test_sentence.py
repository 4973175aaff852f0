"""The folder that the library sentence-transformers loads: its vectors are the model's own."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperModel

from pipeline.errors import InputError
from pipeline.evaluation.embedding import Embedder
from pipeline.models import pretrained
from pipeline.models.build import make_model, save_trained
from pipeline.models.heads import FeatureStatistics
from pipeline.models.normalisation import HALF
from pipeline.models.pretrained import Pretrained
from pipeline.models.sentence import write_sentence_transformers
from tests.models.making import two_towers
from tests.models.test_build import settings
from tests.models.test_dual import WORDS, published

CAPTIONS = ["a red dot", "a", "a blue ring " * 10]
PICTURES = [Image.effect_noise((32, 32), 90).convert("RGB"), Image.new("RGB", (32, 32), "red")]


def timm_tower() -> PreTrainedModel:
    """A convolutional one, whose own preprocessing would cut an eighth of a picture off."""
    config: Any = TimmWrapperConfig.from_dict({"architecture": "test_resnet", "num_classes": 0})
    config.pretrained_cfg = {"crop_pct": 0.875, "input_size": [3, 32, 32], "mean": HALF, "std": HALF}
    return TimmWrapperModel(config).eval()


def trained(base: Pretrained, folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A model with random weights, saved as a training saves it, and the folder of its towers."""
    chosen = settings(captions="raw", **changes)
    options: dict[str, Any] = {}
    if chosen.train == "heads":
        widths = (16, 12) if chosen.family == "vit_bert" else (32, 32)
        options = {"feature_widths": widths}
        if chosen.standardise:
            statistics = tuple(FeatureStatistics(torch.randn(width), torch.rand(width) + 0.5) for width in widths)
            options["statistics"] = statistics
    model = make_model(base, chosen, **options)
    with torch.no_grad():
        for part in (base.image, base.text, model.image_head, model.text_head):
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))  # or all pictures have nearly one vector
    pretrained.save(folder / "base", base)
    save_trained(folder / "trained", model, chosen, base)
    return folder / "trained", folder / "base"


@pytest.mark.parametrize(
    "kind", ["SiglipModel", "ChineseCLIPModel", "MetaClip2Model", "heads", "standardised", "towers", "equal", "timm"]
)
def test_its_vectors_are_the_models_own(kind: str, tmp_path: Path) -> None:
    if kind.endswith("Model"):
        published(kind, tmp_path / "hub")
        base = pretrained.fetch_clip(str(tmp_path / "hub"), revision=None)
        places = trained(base, tmp_path, family="clip")
    else:
        kinds: dict[str, dict[str, Any]] = {
            "heads": {"train": "heads", "width": 8, "dropout": 0.5},
            "standardised": {"train": "heads", "standardise": True, "width": 8},
            "towers": {},
            "equal": {"width": 20},
            "timm": {},
        }
        base = two_towers(WORDS)
        if kind == "timm":
            base = dataclasses.replace(base, image=timm_tower())
        places = trained(base, tmp_path, **kinds[kind])
    lines = write_sentence_transformers(*places, tmp_path / "out")
    assert 'SentenceTransformer(".")' in lines[1]
    own, library = Embedder(*places), SentenceTransformer(str(tmp_path / "out"), device="cpu")
    for expected, inputs in ((own.images(PICTURES), PICTURES), (own.captions(CAPTIONS), CAPTIONS)):
        found = library.encode(inputs, convert_to_tensor=True)
        assert (expected[0] @ expected[1]).abs() < 0.999
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("two", {"pooling": "mean_all"}, r"computes other vectors \(lowest cosine 0\.\d+\)"),
        ("two", {"image_size": 48}, r"cannot run it \(.*48.*\): use onnx"),
        ("SiglipModel", {"train": "heads"}, r"its image head is ResidualHead, which sentence-transformers has no modu"),
        ("SiglipModel", {"width": 8}, r"its projection over a dual encoder is no module of sentence-transformers"),
    ],
)
def test_what_it_cannot_hold_is_refused(kind: str, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    if kind == "two":
        places = trained(two_towers(WORDS), tmp_path, **changes)
    else:
        published(kind, tmp_path / "hub")
        base = pretrained.fetch_clip(str(tmp_path / "hub"), revision=None)
        places = trained(base, tmp_path, family="clip", **changes)
    with pytest.raises(InputError, match=reason):
        write_sentence_transformers(*places, tmp_path / "out")


def test_without_the_library_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"it needs the extra `sentence-transformers`: pip install"):
        write_sentence_transformers(tmp_path, tmp_path, tmp_path / "out")
