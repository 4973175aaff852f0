"""A trained model by itself encodes as its towers and heads do, one picture or sentence at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.base.towers import make_base
from pipeline.data.captions import clean_caption
from pipeline.evaluation import embedding
from pipeline.evaluation.embedding import Embedder
from pipeline.features import tokens
from pipeline.features.pixels import Resize, square_pixels
from pipeline.models import pretrained
from pipeline.models.build import make_model, save_trained
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.towers import MatchingModel, Tokens
from tests.training.making import params_with

CAPTIONS = ["A red dot.", "red", "dot-dot red, red?", "two red dots and a dot"]
SMALL = {"base__width": 16, "base__layers": 1, "base__heads": 2, "base__epochs": 0, "model__image_size": 32}


@pytest.mark.parametrize("train", ["towers", "heads"])
@pytest.mark.parametrize(("pooling", "resize"), [("masked_mean", "crop"), ("mean_all", "square")])
def test_pictures_and_sentences_are_encoded_alone_as_in_batches(
    train: str, pooling: str, resize: Resize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (embedding, tokens):
        monkeypatch.setattr(module, "BATCH", 3)
    chosen = {"model__train": train, "model__pooling": pooling, "model__resize": resize}
    params = params_with(**SMALL, **chosen, model__words=8, data__name="flickr8k")
    base = make_base(params, [("red", 9), ("dot", 9), ("a", 9), ("two", 4)])
    pretrained.save(tmp_path / "base", base)
    model = make_model(base, params.model, feature_widths=(16, 16) if train == "heads" else None)
    save_trained(tmp_path / "trained", model, params.model, base)
    embedder = Embedder(tmp_path / "trained", tmp_path / "base")
    towers = image_tower(base.image), text_tower(base.text, params.model.pooling)
    whole = MatchingModel(*towers, model.image_head, model.text_head, width=16, mean=base.mean, std=base.std).eval()
    gradients = [Image.radial_gradient("L").resize((20 + 9 * number, 40)) for number in range(4)]
    pictures = [Image.merge("RGB", (gradient, gradient.rotate(180), gradient)) for gradient in gradients]
    with torch.no_grad():
        for picture, found in zip(pictures, embedder.images(pictures), strict=True):
            expected = whole.encode_image(square_pixels(picture, 32, resize)[None])[0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for caption, found in zip(CAPTIONS, embedder.captions(CAPTIONS), strict=True):
            ids = torch.tensor(base.tokenizer(clean_caption(caption, 8))["input_ids"])[None]
            mask = torch.ones_like(ids)
            if pooling == "mean_all":
                ids, mask = (torch.nn.functional.pad(part, (0, 8 - ids.shape[1])) for part in (ids, mask))
            expected = whole.encode_text(Tokens(ids, mask))[0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert embedder.images([]).shape == embedder.captions([]).shape == (0, 16)
