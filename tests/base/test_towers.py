"""The small towers made here: on scenes that no split contains, by InfoNCE, which is written out below."""

from __future__ import annotations

from math import cos, pi

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pipeline.base.towers import WARMUP_STEPS, base_scenes, make_base, rate_factor
from pipeline.data.captions import clean_caption
from pipeline.data.scenes.scenes import generate, generate_splits
from pipeline.features.pixels import square_pixels
from pipeline.models.pretrained import Pretrained
from pipeline.params import Params
from tests.training.making import params_with

TINY = {"seed": 1, "scenes": 4, "batch_size": 6, "width": 16, "layers": 1, "heads": 2, "lr": 0.05}


def params_for(epochs: int) -> Params:
    changes = {f"base__{name}": value for name, value in TINY.items()} | {"base__epochs": epochs}
    return params_with(**changes, model__image_size=32)


def test_their_scenes_are_in_no_split_whatever_the_jitter() -> None:
    """Of one shape and few colours splits and base would meet often; where they do not, a scene stays as drawn."""
    few = {"max_shapes": 1, "colours": 3, "train": 60, "val": 20, "test": 40}
    changes = {f"data__scenes__{name}": value for name, value in few.items()}
    params = params_with(**changes, base__scenes=200, base__seed=1)
    scenes = params.data.scenes
    assert params.base.seed == scenes.seed
    split = {scene.description for part in generate_splits(scenes).values() for scene in part}
    drawn = generate(scenes, 1, 200, stream="base")
    assert sum(scene.description in split for scene in drawn) > 10
    learnt = base_scenes(params)
    assert not split & {scene.description for scene in learnt}
    same = [found == plain for found, plain in zip(learnt, drawn, strict=True)]
    assert same == [scene.description not in split for scene in drawn]


def test_the_rate_rises_for_a_hundred_steps_and_falls_by_half_a_cosine() -> None:
    found = [rate_factor(step, 1000) for step in (0, 49, WARMUP_STEPS - 1, WARMUP_STEPS, 500, 999)]
    shares = [(1 + cos(pi * step / 1000)) / 2 for step in (0, 49, 99, 100, 500, 999)]
    assert found == pytest.approx([shares[0] / 100, shares[1] / 2, *shares[2:]])
    assert shares[4] == pytest.approx(0.5) and shares[5] < 1e-5


def encoded(made: Pretrained, pixels: torch.Tensor, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = made.tokenizer(captions, padding=True, return_tensors="pt")
    words_BLW, mask_BL1 = made.text(**tokens).last_hidden_state, tokens["attention_mask"][:, :, None]
    image_BW = made.image(pixel_values=(pixels / 255 - 0.5) / 0.5).last_hidden_state.mean(dim=1)
    return normalize(image_BW, dim=1), normalize((words_BLW * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1), dim=1)


def test_they_learn_infonce_in_which_captions_of_one_image_are_no_negatives() -> None:
    params, words = params_for(2), [("red", 9)]
    naive, made = make_base(params_for(0), words), make_base(params, words)
    scenes = base_scenes(params)
    pixels = torch.stack([square_pixels(scene.image(params.data.scenes.size), 32) for scene in scenes])
    captions = [clean_caption(caption, 30) for scene in scenes for caption in scene.captions]
    weights = [*naive.image.parameters(), *naive.text.parameters()]
    optimiser, step = torch.optim.Adam(weights), 0
    for epoch in range(2):
        order = np.random.default_rng([1, epoch]).permutation(20)
        for rows in (order[start : start + 6] for start in range(0, 20, 6)):
            owner = torch.from_numpy(rows // 5)
            image, text = encoded(naive, pixels[owner], [captions[row] for row in rows])
            other = (owner[:, None] == owner) & ~torch.eye(len(rows), dtype=torch.bool)
            logits = (image @ text.T / params.base.temperature).masked_fill(other, -torch.inf)
            loss = sum(torch.nn.functional.cross_entropy(way, torch.arange(len(rows))) for way in (logits, logits.T))
            optimiser.param_groups[0]["lr"] = 0.05 * (step + 1) / 100 * (1 + cos(pi * step / 8)) / 2
            optimiser.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimiser.step()
            step += 1
    # vectors, not weights: a key's bias changes nothing, and Adam moves it by what rounding leaves of its gradient
    untrained = make_base(params_for(0), words)
    found, expected, start = (encoded(towers, pixels[:2], captions[:2]) for towers in (made, naive, untrained))
    for vectors, by_hand, before in zip(found, expected, start, strict=True):
        torch.testing.assert_close(vectors, by_hand, rtol=1e-3, atol=1e-4)
        assert (before - by_hand).abs().max() > 0.01
