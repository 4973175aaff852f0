"""What a training reads: each pair once an epoch in a new order, and only its images are augmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.images import decode
from pipeline.features.augmentation import Augmentation
from pipeline.features.inputs import Batch, Inputs, epoch_plan, training_batches
from pipeline.features.shards import PackedShards
from pipeline.features.tokens import fixed_length
from pipeline.models.towers import Tokens
from tests.features.making import PAD, frozen_inputs, prepared_inputs
from tests.training.making import params_with

CAPTION_IMAGE = [0, 0, 1, 2, 2, 2]
TOKENS = [[2, 7, 3], [2, 3], [2, 5, 6, 4, 3], [2, 4, 3], [2, 8, 8, 3], [2, 9, 3]]
PIXELS = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batches_of(inputs: Inputs, epoch: int = 0, **how: object) -> list[Batch]:
    plan = epoch_plan(len(CAPTION_IMAGE), 4, seed=1, epoch=epoch)
    spans = [range(len(rows)) for rows in plan]
    options = {"start": 0, "workers": 0} | how
    return list(training_batches(inputs, plan, spans, seeds=(1, epoch), **options))  # type: ignore[arg-type]


def test_an_epoch_holds_every_caption_once_and_each_epoch_and_seed_orders_them_anew() -> None:
    orders = set()
    for seed, epoch in ((1, 0), (1, 1), (1, 2), (2, 0)):
        plan = epoch_plan(50, 8, seed, epoch)
        assert [len(rows) for rows in plan] == [8] * 6 + [2]
        order = np.concatenate(plan).tolist()
        assert sorted(order) == list(range(50)) != order
        orders.add(tuple(order))
    assert len(orders) == 4


def test_a_batch_holds_its_captions_with_their_own_images(tmp_path: Path) -> None:
    inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE)
    plan = epoch_plan(len(CAPTION_IMAGE), 4, seed=1, epoch=0)
    for number, batch in enumerate(batches_of(inputs)):
        rows = plan[number].tolist()
        assert (batch.caption_id.tolist(), batch.first, batch.global_size) == (rows, 0, len(rows))
        assert batch.image_id.tolist() == [CAPTION_IMAGE[row] for row in rows]
        assert torch.equal(batch.images, PIXELS[batch.image_id])
        assert isinstance(batch.texts, Tokens)
        longest = max(len(TOKENS[row]) for row in rows)
        assert batch.texts.ids.tolist() == [TOKENS[row] + [PAD] * (longest - len(TOKENS[row])) for row in rows]
        assert batch.texts.mask.sum(dim=1).tolist() == [len(TOKENS[row]) for row in rows]


def test_a_part_of_a_batch_is_what_the_whole_batch_has_there(tmp_path: Path) -> None:
    inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE, augment=True)
    plan, whole = epoch_plan(len(CAPTION_IMAGE), 4, seed=1, epoch=0), batches_of(inputs)[0]
    (part,) = training_batches(inputs, plan[:1], [range(1, 3)], seeds=(1, 0), start=0, workers=0)
    assert (part.first, part.global_size) == (1, 4)
    assert torch.equal(part.caption_id, whole.caption_id[1:3])
    assert torch.equal(part.images, whole.images[1:3])


def test_a_part_is_padded_as_the_whole_batch_where_padding_is_averaged(tmp_path: Path) -> None:
    for pooling, same in (("mean_all", True), ("masked_mean", False)):
        inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE)
        inputs.evaluation_length = fixed_length(params_with(model__pooling=pooling).model)
        rows = np.array(sorted(range(len(TOKENS)), key=lambda row: len(TOKENS[row])))
        entries = (rows, rows)
        whole, part = (
            next(training_batches(inputs, [rows], [span], seeds=(1, 0), start=0, workers=0, entries=entries))
            for span in (range(len(rows)), range(2))
        )
        assert isinstance(whole.texts, Tokens) and isinstance(part.texts, Tokens)
        assert torch.equal(whole.texts.ids[:2], part.texts.ids) is same
        assert whole.texts.ids.shape[1] == max(map(len, TOKENS)) > min(map(len, TOKENS))
        assert whole.entries is not None and part.entries is not None
        shapes = [entry.texts.ids.shape[1] for entry in (whole.entries, part.entries)]  # type: ignore[union-attr]
        assert (shapes[0] == shapes[1]) is same


def test_training_images_are_augmented_and_those_of_evaluation_and_of_entries_are_not(tmp_path: Path) -> None:
    inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE, augment=True)
    entries = (np.array([2, 2, 3, 0, 0, 0]), np.array([5, 4, 3, 2, 1, 0]))
    seen: list[Tensor] = []
    for epoch in (0, 1):
        for batch in batches_of(inputs, epoch, entries=entries):
            for pixels, image in zip(batch.images, batch.image_id.tolist(), strict=True):
                assert not torch.equal(pixels, PIXELS[image])
                seen.append(pixels)
            assert batch.entries is not None
            assert torch.equal(batch.entries.images, PIXELS[batch.entries.image_id])
    assert len({pixels.numpy().tobytes() for pixels in seen}) == 12, "each pair of each epoch in a way of its own"
    assert torch.equal(inputs.images(range(3)), PIXELS)


def test_augmentation_is_fnes_by_the_seed_of_each_place(tmp_path: Path) -> None:
    inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE, augment=True)
    augmented = inputs.images([1, 1], seeds=[5, 6])
    stored = PackedShards(tmp_path, "images")[1].numpy().tobytes()
    for pixels, seed in zip(augmented, (5, 6), strict=True):
        assert torch.equal(pixels, Augmentation(16)(decode(stored, "1.png"), seed))


def test_entries_are_first_those_for_the_images_then_those_for_the_captions(tmp_path: Path) -> None:
    inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE)
    for_image, for_text = np.array([2, 3, 4, 5, 0, 1]), np.array([5, 4, 3, 2, 1, 0])
    for batch in batches_of(inputs, entries=(for_image, for_text)):
        assert batch.entries is not None
        for half, wanted in zip(batch.entries.halves(), (for_image, for_text), strict=True):
            rows = wanted[batch.caption_id]
            assert half.image_id.tolist() == [CAPTION_IMAGE[row] for row in rows]
            assert torch.equal(half.images, PIXELS[half.image_id])
            assert isinstance(half.texts, Tokens)
            assert [ids[mask == 1].tolist() for ids, mask in zip(*half.texts, strict=True)] == [
                TOKENS[row] for row in rows
            ]


def test_frozen_features_are_read_as_they_are(tmp_path: Path) -> None:
    image_NW, text_MW = torch.rand(3, 4), torch.rand(6, 5)
    inputs = frozen_inputs(tmp_path, image_NW, text_MW, CAPTION_IMAGE)
    assert inputs.feature_widths == (4, 5)
    for batch in batches_of(inputs):
        assert torch.equal(batch.images, image_NW[batch.image_id])
        assert isinstance(batch.texts, Tensor) and torch.equal(batch.texts, text_MW[batch.caption_id])


def test_where_padding_is_averaged_captions_have_one_length_outside_of_training(tmp_path: Path) -> None:
    inputs = prepared_inputs(tmp_path, PIXELS, TOKENS, CAPTION_IMAGE, pooling="mean_all", words=4)
    texts = inputs.texts([1, 2], training=False)
    assert isinstance(texts, Tokens)
    assert texts.ids.tolist() == [[2, 3, PAD, PAD], [2, 5, 6, 3]], "cut, the closing token kept"
    trained = inputs.texts([1, 2], training=True)
    assert isinstance(trained, Tokens) and trained.ids.shape == (2, 5)
