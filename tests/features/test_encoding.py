"""A split through the model: in evaluation mode, in the split's order, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from pipeline.features.encoding import encode_split
from pipeline.models.towers import MatchingModel
from tests.features.making import frozen_inputs, prepared_inputs


def model_with_dropout(width: int) -> MatchingModel:
    heads = (nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 3)) for _ in range(2))
    return MatchingModel(nn.Identity(), nn.Identity(), *heads, width=3)


@pytest.mark.parametrize("training", [True, False])
def test_rows_are_encoded_without_dropout_and_the_mode_is_kept(training: bool, tmp_path: Path) -> None:
    image_NW, text_MW = torch.randn(5, 4), torch.randn(7, 4)
    inputs = frozen_inputs(tmp_path, image_NW, text_MW, [0, 1, 1, 2, 3, 4, 4])
    model = model_with_dropout(4).train(training)
    for batch_size in (2, 100):
        found = encode_split(model, inputs, batch_size)
        for encoded, rows, head in zip(found, (image_NW, text_MW), (model.image_head, model.text_head), strict=True):
            expected = normalize(head.get_submodule("1")(rows), dim=1)
            torch.testing.assert_close(encoded, expected.detach())
            assert not encoded.requires_grad
    assert all(part.training is training for part in model.modules())


def test_pixels_are_normalised_by_the_model_and_never_augmented(tmp_path: Path) -> None:
    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    inputs = prepared_inputs(tmp_path, pixels, [[1], [1]], [0, 1], augment=True)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    words = nn.EmbeddingBag(4, 48)
    text_tower = nn.Module()
    text_tower.forward = lambda tokens: words(tokens.ids)  # type: ignore[method-assign]
    model = MatchingModel(nn.Flatten(), text_tower, nn.Identity(), nn.Identity(), width=48, mean=mean, std=std)
    model.words = words
    image_ND, _ = encode_split(model, inputs, 8)
    channel = (3, 1, 1)
    expected = (pixels / 255 - torch.tensor(mean).view(channel)) / torch.tensor(std).view(channel)
    torch.testing.assert_close(image_ND, normalize(expected.flatten(1), dim=1))
