"""What an image's captions say of another, against loops over captions that are left out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.evidence import captions as module
from pipeline.evidence.captions import caption_agreement, centred_captions, pair_similarity, picture_agreement
from pipeline.evidence.references import references
from tests.evidence.planted import ragged

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def case(seed: int, dtype: torch.dtype = torch.float64) -> Case:
    """Images, captions, the captions' images, and every pair of an image and a caption in some order."""
    generator = torch.Generator().manual_seed(seed)
    caption_image_M = ragged(5, 6, seed)
    image_NV, caption_MV = (
        normalize(torch.randn(rows, 4, generator=generator, dtype=torch.float64), dim=1).to(dtype)
        for rows in (5, len(caption_image_M))
    )
    image_K, caption_K = torch.cartesian_prod(torch.arange(5), torch.arange(len(caption_image_M))).unbind(1)
    order_K = torch.randperm(len(image_K), generator=generator)
    return image_NV, caption_MV, caption_image_M, image_K[order_K], caption_K[order_K]


def others(caption_image_M: Tensor, image: int, caption: int) -> list[int]:
    return [m for m, of in enumerate(caption_image_M.tolist()) if of == image and m != caption]


def naive_agreement(caption_MV: Tensor, caption_image_M: Tensor, image: int, caption: int) -> float:
    """Over the ways to leave one reference out: the caption itself where it is one, else each in turn."""
    cosine = [float(caption_MV[caption] @ caption_MV[m]) for m in others(caption_image_M, image, caption)]
    if caption_image_M[caption] == image:
        return max(cosine, default=math.nan)
    if len(cosine) < 2:
        return math.nan
    return sum(max(cosine[:m] + cosine[m + 1 :]) for m in range(len(cosine))) / len(cosine)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_agreement_is_the_maximum_with_one_reference_left_out(seed: int) -> None:
    _, caption_MV, caption_image_M, image_K, caption_K = case(seed)
    found_K = caption_agreement(caption_MV, caption_image_M, image_K, caption_K)
    pairs = zip(image_K.tolist(), caption_K.tolist(), strict=True)
    expected = [naive_agreement(caption_MV, caption_image_M, *pair) for pair in pairs]
    assert found_K.tolist() == pytest.approx(expected, nan_ok=True)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_the_own_picture_is_compared_with_the_other_captions(seed: int) -> None:
    image_NV, caption_MV, caption_image_M, image_K, caption_K = case(seed)
    found_K = picture_agreement(image_NV, caption_MV, caption_image_M, image_K, caption_K)
    for found, image, caption in zip(found_K.tolist(), image_K.tolist(), caption_K.tolist(), strict=True):
        cosine = [
            float(image_NV[caption_image_M[caption]] @ caption_MV[m]) for m in others(caption_image_M, image, caption)
        ]
        assert found == pytest.approx(sum(cosine) / len(cosine) if cosine else math.nan, nan_ok=True)


def test_no_caption_is_ever_its_own_reference() -> None:
    caption_image_M = torch.tensor([0, 0, 1, 1, 2])
    every_M = torch.arange(5)
    found_M = caption_agreement(torch.eye(5), caption_image_M, caption_image_M, every_M)
    assert found_M[:4].tolist() == [0] * 4  # 1 with itself
    assert bool(found_M[4].isnan())  # and nothing to compare with
    for pair_B, reference_Bn, own_Bn in references(caption_image_M, caption_image_M, every_M):
        assert torch.equal(own_Bn, reference_Bn == pair_B[:, None])


def test_the_same_words_twice_are_two_captions() -> None:
    caption_MV = torch.tensor([[1.0, 0], [1, 0]])
    own_M = torch.zeros(2).long()
    assert caption_agreement(caption_MV, own_M, own_M, torch.arange(2)).tolist() == [1, 1]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pairs_come_once_with_all_references_of_their_image(size: int) -> None:
    _, _, caption_image_M, image_K, caption_K = case(5)
    seen: dict[int, list[int]] = {}
    for pair_B, reference_Bn, _ in references(caption_image_M, image_K, caption_K, size):
        assert reference_Bn.numel() <= size or len(pair_B) == 1
        assert not seen.keys() & set(pair_B.tolist())
        seen |= {pair: sorted(rows) for pair, rows in zip(pair_B.tolist(), reference_Bn.tolist(), strict=True)}
    expected = {pair: others(caption_image_M, image, -1) for pair, image in enumerate(image_K.tolist())}
    assert seen == {pair: rows for pair, rows in expected.items() if rows}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_short_numbers_give_nearly_the_same_in_single_precision(dtype: torch.dtype) -> None:
    exact_K = caption_agreement(*case(2)[1:])
    found_K = caption_agreement(*case(2, dtype)[1:])
    assert found_K.dtype == torch.float32
    torch.testing.assert_close(found_K.double(), exact_K, atol=2e-3, rtol=0, equal_nan=True)


def test_no_pairs_have_no_agreement() -> None:
    none = torch.empty(0, dtype=torch.long)
    assert caption_agreement(torch.eye(2), torch.arange(2), none, none).shape == (0,)


def test_similarity_and_centred_captions_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    image_NV, caption_MV, _, image_K, caption_K = case(1)
    monkeypatch.setattr(module, "CHUNK_PAIRS", 3)
    expected_K = (image_NV @ caption_MV.T)[image_K, caption_K]
    torch.testing.assert_close(pair_similarity(image_NV, caption_MV, image_K, caption_K), expected_K)
    mean_V = torch.tensor([0.5, 0, 0, 0])
    torch.testing.assert_close(centred_captions(3 * caption_MV, mean_V), normalize(caption_MV - mean_V, dim=1))
