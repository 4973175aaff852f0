"""The memory: a queue that keeps the last features, whatever the batch size."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.models.memory import NO_IMAGE, Memory

WIDTH = 3


class Written(NamedTuple):
    """A batch as it is enqueued."""

    image: Tensor
    text: Tensor
    image_id: Tensor
    caption_id: Tensor


def batches(sizes: list[int], seed: int = 0) -> list[Written]:
    """Batches of these sizes, ids counting on from 0."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(sum(sizes)).split(sizes)
    return [
        Written(
            torch.rand(len(part), WIDTH, generator=generator),
            torch.rand(len(part), WIDTH, generator=generator),
            part,
            10 * part,
        )
        for part in ids
    ]


@given(size=st.integers(1, 9), sizes=st.lists(st.integers(1, 20), max_size=6))
@settings(deadline=None)
def test_it_holds_the_last_rows_that_were_written_each_in_the_slot_of_the_oldest(size: int, sizes: list[int]) -> None:
    memory = Memory(size, WIDTH)
    for batch in batches(sizes):
        memory.enqueue(*batch)
    slots: list[tuple[int, list[float], list[float]] | None] = [None] * size
    for batch in batches(sizes):
        for number, image, text in zip(batch.image_id.tolist(), batch.image.tolist(), batch.text.tolist(), strict=True):
            slots[number % size] = (number, image, text)
    for slot, expected in enumerate(slots):
        assert bool(memory.filled[slot]) == (expected is not None)
        if expected is None:
            assert int(memory.image_id[slot]) == NO_IMAGE
        else:
            assert (int(memory.image_id[slot]), memory.image[slot].tolist(), memory.text[slot].tolist()) == expected
            assert int(memory.caption_id[slot]) == 10 * expected[0]


def test_captions_may_stay_unnamed() -> None:
    memory = Memory(3, WIDTH)
    memory.enqueue(*batches([2])[0])
    image, text, image_id, _ = batches([2], seed=1)[0]
    memory.enqueue(image, text, image_id)
    assert memory.caption_id.tolist() == [NO_IMAGE, 10, NO_IMAGE]


def test_a_restored_memory_goes_on_identically() -> None:
    first, *later = batches([3, 4, 2, 9], seed=5)
    whole, restored = Memory(7, WIDTH, "random"), Memory(7, WIDTH)
    whole.enqueue(*first)
    restored.load_state_dict(whole.state_dict())
    for batch in later:
        whole.enqueue(*batch)
        restored.enqueue(*batch)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_random_contents_are_unit_vectors_that_count_and_belong_to_no_image() -> None:
    memory = Memory(6, WIDTH, "random")
    assert bool(memory.filled.all())
    assert memory.image_id.tolist() == [NO_IMAGE] * 6
    for side in (memory.image, memory.text):
        torch.testing.assert_close(normalize(side), side)
        assert len(side.unique(dim=0)) == 6
    assert not torch.equal(memory.image, memory.text)


def test_what_was_written_is_a_copy_without_gradient() -> None:
    memory = Memory(2, WIDTH)
    image = torch.ones(2, WIDTH, requires_grad=True)
    memory.enqueue(image * 2, image * 3, torch.tensor([0, 1]))
    assert not memory.image.requires_grad
    assert memory.text.tolist() == [[3.0] * WIDTH] * 2


def test_a_memory_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="memory size 0"):
        Memory(0, WIDTH)
