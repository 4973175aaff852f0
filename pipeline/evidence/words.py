"""Evidence without any model: the share of a caption's words that also occur in the image's own captions.

Captions are given as terms separated by spaces, see `caption_terms`.

Shapes: M captions, N images, L words of the vocabulary, K pairs of an image and a caption, B of them at a time, P words
that a pair shares.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.captions import clean_caption

CHUNK_PAIRS = 1 << 16
MOST_WORDS = 10_000  # all words of a caption


def caption_terms(captions: Sequence[str], words: int) -> list[str]:
    """Each caption's terms of so many neighbouring words, separated by spaces; a shorter caption is one term."""
    cleaned = [clean_caption(caption, MOST_WORDS).split() for caption in captions]
    return [
        " ".join("_".join(caption[at : at + words]) for at in range(max(1, len(caption) - words + 1)))
        for caption in cleaned
    ]


def inverse_document_frequencies(captions: Sequence[str], caption_image_M: Tensor) -> dict[str, float]:
    """`log((1 + N) / (1 + images with the word))` of each word of the training captions.

    A document is all captions of an image together. A word that occurs in some caption of every image ("background",
    "the") gets weight 0, even if few captions have it: on the scenes the AUC is then 0.95 instead of 0.90.
    """
    words, said_ML = _word_matrix(captions)
    images_L = (_sum_by_image(caption_image_M) @ said_ML > 0).sum(axis=0).A1
    images = len(caption_image_M.unique())
    return dict(zip(words, np.log((1 + images) / (1 + images_L)).tolist(), strict=True))


class WordCoverage:
    """Evidence cov of any pair of a split: the share of a caption's IDF mass in words that the image's captions have.

    Args:
        captions: the split's captions.
        caption_image_M: the image of each; every image has a caption.
        idf: of the training captions' words; another word gets the weight of the rarest.
    """

    def __init__(self, captions: Sequence[str], caption_image_M: Tensor, idf: Mapping[str, float]) -> None:
        """Count each image's words once, as sparse matrices."""
        words, self._said_ML = _word_matrix(captions)
        rarest = max(idf.values(), default=1.0)
        self._idf_L = np.array([idf.get(word, rarest) for word in words])
        self._whole_M = self._said_ML @ self._idf_L
        self._image_M = caption_image_M.cpu().numpy()
        self._captions_N = np.bincount(self._image_M)
        self._captions_NL = _sum_by_image(caption_image_M) @ self._said_ML  # captions of an image that have each word

    def of(self, image_K: Tensor, caption_K: Tensor) -> Tensor:
        """cov_K in [0, 1], float64.

        A caption of the image itself is not one of its own references. For a caption of another image, the result is
        the mean over the ways to leave out one of the image's n captions, as for t: a word of only one caption counts
        (n - 1) / n. NaN if no caption is left, or if all weights of the caption's words are 0.
        """
        parts = zip(image_K.cpu().split(CHUNK_PAIRS), caption_K.cpu().split(CHUNK_PAIRS), strict=True)
        return torch.from_numpy(np.concatenate([self._of(image.numpy(), caption.numpy()) for image, caption in parts]))

    def block(self, image_I: Tensor, caption_J: Tensor) -> Tensor:
        """The coverage (I, J), float32, of these images and captions, as `of` for captions of other images."""
        chosen_I = image_I.cpu().numpy()
        counted_IL = self._captions_NL[chosen_I].astype(np.float64)
        captions_I = self._captions_N[chosen_I]
        row_P = np.repeat(np.arange(len(chosen_I)), np.diff(counted_IL.indptr))
        counted_IL.data = np.where(counted_IL.data > 1, 1.0, (captions_I[row_P] - 1) / captions_I[row_P])
        chosen_J = caption_J.cpu().numpy()
        weighted_LJ = self._said_ML[chosen_J].multiply(self._idf_L).T.tocsr()
        with np.errstate(invalid="ignore"):
            covered_IJ = (counted_IL @ weighted_LJ).toarray() / self._whole_M[chosen_J]
        covered_IJ[captions_I < 2] = np.nan
        return torch.from_numpy(covered_IJ.astype(np.float32))

    def _of(self, image_B: Any, caption_B: Any) -> Any:
        said_BL = self._said_ML[caption_B]
        own_B = self._image_M[caption_B] == image_B
        captions_B = self._captions_N[image_B]
        shared_BL = said_BL.multiply(self._captions_NL[image_B]).tocsr()
        captions_P, row_P = shared_BL.data, np.repeat(np.arange(len(image_B)), np.diff(shared_BL.indptr))
        alone_P = np.where(own_B[row_P], 0.0, (captions_B[row_P] - 1) / captions_B[row_P])
        shared_BL.data = np.where(captions_P > 1, 1.0, alone_P)
        with np.errstate(invalid="ignore"):
            covered_B = (shared_BL @ self._idf_L) / self._whole_M[caption_B]
        return np.where(captions_B > 1, covered_B, np.nan)


def _word_matrix(captions: Sequence[str]) -> tuple[list[str], Any]:
    """The vocabulary, and a sparse (M, L) matrix with 1 where a caption has a word."""
    from scipy.sparse import csr_matrix

    column: dict[str, int] = {}
    place, first = array("q"), array("q", [0])
    for caption in captions:
        place.extend(sorted({column.setdefault(word, len(column)) for word in caption.split()}))
        first.append(len(place))
    said_ML = csr_matrix((np.ones(len(place), dtype=np.int32), place, first), shape=(len(captions), len(column)))
    return list(column), said_ML


def _sum_by_image(caption_image_M: Tensor) -> Any:
    """A sparse (N, M) matrix that sums rows of captions over each image's."""
    from scipy.sparse import csr_matrix

    image_M = caption_image_M.cpu().numpy()
    shape = (int(image_M.max(initial=-1)) + 1, len(image_M))
    return csr_matrix((np.ones(len(image_M), dtype=np.int32), (image_M, np.arange(len(image_M)))), shape=shape)
