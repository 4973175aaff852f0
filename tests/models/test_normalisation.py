"""Pixels as an image tower expects them."""

from __future__ import annotations

import torch

from pipeline.models.normalisation import normalised


def test_normalisation_is_by_channel() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    found = normalised(pixels, [0.5, 0.2, 0.0], [0.5, 0.1, 0.25])
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 4, 4)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([-1.0, 0.0, 4.0]))
