"""Ranks in chunks against the whole similarity matrix; ties count against the model."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.errors import InputError
from pipeline.retrieval import ranks
from pipeline.retrieval.ranks import retrieval_ranks


class Split(NamedTuple):
    """Images, captions, and which caption belongs to which image."""

    image_ND: Tensor
    text_MD: Tensor
    caption_image_M: Tensor

    def ranks(self, chunk_size: int = 1024) -> tuple[list[int], list[int]]:
        i2t_N, t2i_M = retrieval_ranks(*self, chunk_size=chunk_size)
        return i2t_N.tolist(), t2i_M.tolist()


def full_matrix_ranks(split: Split) -> tuple[list[int], list[int]]:
    """Both directions from the whole matrix, one comparison after another."""
    similarity = (split.image_ND @ split.text_MD.T).tolist()
    owner = split.caption_image_M.tolist()
    images, captions = range(len(similarity)), range(len(owner))
    i2t = [
        sum(
            similarity[n][m] >= max(similarity[n][k] for k in captions if owner[k] == n)
            for m in captions
            if owner[m] != n
        )
        for n in images
    ]
    t2i = [sum(similarity[n][m] >= similarity[owner[m]][m] for n in images if n != owner[m]) for m in captions]
    return i2t, t2i


@st.composite
def exact_splits(draw: st.DrawFn) -> Split:
    """Features of few small integers: products are exact in any order of summation, and ties are frequent."""
    captions = draw(st.lists(st.integers(1, 4), min_size=1, max_size=7))  # of each image
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    owner = torch.arange(len(captions)).repeat_interleave(torch.tensor(captions))
    owner = owner[torch.randperm(len(owner), generator=generator)]
    image_ND = torch.randint(-1, 2, (len(captions), 4), generator=generator).float()
    text_MD = torch.randint(-1, 2, (len(owner), 4), generator=generator).float()
    return Split(image_ND, text_MD, owner)


@given(split=exact_splits(), chunk_size=st.integers(1, 30))
@settings(max_examples=200)
def test_any_chunk_size_gives_the_ranks_of_the_whole_matrix(split: Split, chunk_size: int) -> None:
    assert split.ranks(chunk_size) == full_matrix_ranks(split)


def random_split(images: int, captions_an_image: int, width: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(images).repeat_interleave(captions_an_image)
    image_ND = normalize(torch.randn(images, width, generator=generator), dim=1)
    text_MD = normalize(image_ND[owner] + 0.5 * torch.randn(len(owner), width, generator=generator), dim=1)
    return Split(image_ND, text_MD, owner)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_real_features_rank_alike_in_any_chunk(chunk_size: int) -> None:
    split = random_split(images=40, captions_an_image=3, width=16)
    assert split.ranks(chunk_size) == full_matrix_ranks(
        Split(split.image_ND.double(), split.text_MD.double(), split.caption_image_M)
    )


def test_tiles_that_are_made_twice_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    split = random_split(images=90, captions_an_image=3, width=16)
    kept = split.ranks(chunk_size=20)
    monkeypatch.setattr(ranks, "KEPT_BYTES", 0)
    assert split.ranks(chunk_size=20) == kept == full_matrix_ranks(split)


@given(
    width=st.sampled_from([3, 16, 32, 64, 96, 256]),
    images=st.integers(2, 40),
    chunk_size=st.integers(1, 45),
    seed=st.integers(0, 100),
)
def test_a_collapsed_model_ranks_last_whatever_the_features(
    width: int, images: int, chunk_size: int, seed: int
) -> None:
    one_1D = normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(seed)), dim=1)
    owner = torch.arange(images).repeat_interleave(2)
    split = Split(one_1D.repeat(images, 1), one_1D.repeat(len(owner), 1), owner)
    assert split.ranks(chunk_size) == ([len(owner) - 2] * images, [images - 1] * len(owner))


@given(width=st.sampled_from([32, 64, 96, 256]), images=st.integers(3, 40), chunk_size=st.integers(1, 45))
def test_a_copy_of_the_right_answer_counts_against_the_model(width: int, images: int, chunk_size: int) -> None:
    split = random_split(images, 1, width)
    split.image_ND[-1] = split.image_ND[0]
    split.text_MD[-1] = split.text_MD[0]
    i2t, t2i = split.ranks(chunk_size)
    assert min(i2t[0], i2t[-1], t2i[0], t2i[-1]) >= 1


def test_without_images_there_are_no_ranks() -> None:
    i2t_N, t2i_M = retrieval_ranks(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, dtype=torch.long))
    assert (i2t_N.shape, t2i_M.shape) == ((0,), (0,))


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ([0, 1, 2, 0], "names images outside of 0 … 1"),
        ([0, 1, -1, 0], "names images outside of 0 … 1"),
        ([0, 0, 0, 0], "image 1 has no caption"),
        ([0, 1, 1], "4 captions but 3 entries"),
    ],
)
def test_captions_that_do_not_fit_the_images_are_refused(owner: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(torch.eye(2, 3), torch.rand(4, 3), torch.tensor(owner))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("side", "message"), [(0, "1 of 5 images have"), (1, "1 of 10 captions have")])
def test_vectors_that_are_not_finite_have_no_rank(side: int, message: str, value: float) -> None:
    split = random_split(images=5, captions_an_image=2, width=4)
    split[side][3, 1] = value
    with pytest.raises(InputError, match=f"^{message} a vector that is not finite"):
        split.ranks()
