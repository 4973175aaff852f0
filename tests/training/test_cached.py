"""Encoding a batch in parts gives the gradients of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.training.cached import CachedVectors
from tests.training.making import linear_heads, params_with, small_inputs, small_towers, tiny_training

MEMORY: dict[str, Any] = {"memory__size": 8, "sampler__strategy": "all", "loss__name": "infonce"}
BATCH: dict[str, Any] = {
    "memory__size": 0,
    "sampler__strategy": "all",
    "loss__name": "infonce",
    "loss__temperature": "learned",
}


@pytest.mark.parametrize("settings", [MEMORY, BATCH, {"memory__size": 0, "sampler__strategy": "hardest"}])
def test_a_training_in_parts_ends_with_the_weights_of_one_in_whole_batches(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    ends = {}
    # an eps of 1: steps are proportional to gradients, whose rounding Adam would otherwise enlarge
    common = {
        "train__batch_size": 5,
        "train__epochs": 2,
        "train__warmup": "infonce",
        "train__lr": 1.0,
        "train__eps": 1.0,
    }
    for part in (None, 2, 100):
        model = small_towers("clip")
        if settings.get("loss__temperature") == "learned":
            model.logit_scale = nn.Parameter(torch.tensor(2.0))
        params = params_with(**common, **settings, train__part=part)
        training = tiny_training(tmp_path / str(part), params, model, small_inputs(tmp_path / f"in{part}"))
        training.run()
        ends[part] = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    start = dict(small_towers("clip").named_parameters())
    assert any((ends[None][name] - value).abs().max() > 1e-3 for name, value in start.items())
    for name, value in ends[None].items():
        torch.testing.assert_close(ends[2][name], value, rtol=1e-5, atol=1e-5)
        assert torch.equal(ends[100][name], value)


def test_dropout_is_the_same_in_both_passes() -> None:
    """The gradient of a sum of squares is twice the vectors, which holds only if both passes drop the same inputs."""
    model = linear_heads(dropout=0.5).train()
    images, texts = torch.randn(6, 5), torch.randn(6, 5)
    torch.manual_seed(1)
    cached = CachedVectors(lambda image, text: (model.image_head(image), model.text_head(text)), images, texts, 2)
    (cached.image_bD.square().sum() + cached.text_bD.square().sum()).backward()
    cached.backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    torch.manual_seed(1)
    for start in (0, 2, 4):
        image, text = model.image_head(images[start : start + 2]), model.text_head(texts[start : start + 2])
        (image.square().sum() + text.square().sum()).backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])
