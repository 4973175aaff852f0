"""Evidence from contextual token vectors: how similar each token is to one in the image's captions.

Shapes: T tokens of all captions, concatenated, M captions, V width, K pairs of an image and a caption, B of them at a
time, n references, L tokens of the longest caption of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.evidence.references import jackknifed_maximum, references

CHUNK_REFERENCES = 1 << 10


def token_recall(
    token_TV: Tensor,
    first_M1: Tensor,
    idf_T: Tensor,
    caption_image_M: Tensor,
    image_K: Tensor,
    caption_K: Tensor,
) -> Tensor:
    """Evidence b: each token of the caption against the most similar one of the image's captions (BERTScore's recall).

    `Σ_t idf_t · max cosine(t, u) / Σ_t idf_t` over tokens t of the caption and u of the image's captions; the maximum
    over captions is jackknifed, as for t (`jackknifed_maximum`), and leaves the caption itself out. It is asymmetric: a
    caption with less content than the references is still true.

    Args:
        token_TV: unit vectors of the tokens, caption after caption.
        first_M1: (M + 1,): the first token of each caption, and T.
        idf_T: weight of each token.
        caption_image_M, image_K, caption_K: as for `caption_agreement`.

    Returns:
        b_K: NaN for an image with fewer than two captions, or if all weights of the caption's tokens are 0.
    """
    recall_K = token_TV.new_full(image_K.shape, torch.nan, dtype=torch.float32)
    for pair_B, reference_Bn, own_Bn in references(caption_image_M, image_K, caption_K, CHUNK_REFERENCES):
        token_BL, real_BL = _padded(first_M1, caption_K[pair_B])
        other_BnL, there_BnL = _padded(first_M1, reference_Bn)
        query_B1LV = token_TV[token_BL].float()[:, None]
        cosine_BnLL = query_B1LV @ token_TV[other_BnL].float().transpose(2, 3)
        nearest_BnL = cosine_BnLL.masked_fill(~there_BnL[:, :, None], -1.0).amax(3)
        nearest_BLn = nearest_BnL.transpose(1, 2)
        best_BL = jackknifed_maximum(nearest_BLn, own_Bn[:, None].expand_as(nearest_BLn))
        weight_BL = idf_T[token_BL].float() * real_BL
        recall_K[pair_B] = (weight_BL * best_BL).sum(1) / weight_BL.sum(1)
    return recall_K


def _padded(first_M1: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
    """Token rows (…, L) of captions of any shape (…), and which are real; padding is row 0."""
    first, count = first_M1[caption], first_M1[caption + 1] - first_M1[caption]
    offset_L = torch.arange(int(count.max()), device=caption.device)
    real = offset_L < count[..., None]
    return (first[..., None] + offset_L).where(real, 0), real
