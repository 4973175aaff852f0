"""A split through the model: in evaluation mode, in the split's order, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from pipeline.features.encoding import encode_split
from pipeline.models.towers import MatchingModel
from tests.features.making import frozen_inputs
from tests.training.making import PIXELS_N3HW, linear_towers, prepared_pairs


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
    inputs, model = prepared_pairs(tmp_path, augment=True), linear_towers()
    model.mean, model.std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    image_ND, text_MD = encode_split(model, inputs, 4)
    shift, scale = (torch.tensor(numbers).view(3, 1, 1) for numbers in (model.mean, model.std))
    features = model.image_tower((PIXELS_N3HW / 255 - shift) / scale)
    torch.testing.assert_close(image_ND, normalize(features, dim=1).detach())
    assert text_MD.shape == (12, 4)
