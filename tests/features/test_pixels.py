"""From a decoded image to what the image tower sees."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from pipeline.features.pixels import square_pixels


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_is_taken_as_it_is() -> None:
    content = noise(8, 8)
    pixels = square_pixels(Image.fromarray(content), 8)
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), content.transpose(2, 0, 1))


def test_crop_is_the_middle_of_the_shorter_side_s_resize_as_torchvision_has_it() -> None:
    for height, width in ((10, 30), (31, 17), (16, 16), (9, 9), (33, 200)):
        image = Image.fromarray(noise(height, width))
        theirs = v2.Compose([v2.Resize(16, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16)])(image)
        assert np.array_equal(square_pixels(image, 16, "crop").numpy(), np.asarray(theirs).transpose(2, 0, 1))


def test_any_other_is_resized_to_the_square_its_aspect_given_up() -> None:
    image = Image.fromarray(noise(10, 30))
    pixels = square_pixels(image, 16)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels.numpy(), expected.transpose(2, 0, 1))
