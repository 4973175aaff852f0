"""The kinds of evidence about the pairs of one split, for chosen pairs and for all pairs of some images.

Shapes: N images, M captions, V width of the caption vectors, K chosen pairs, I chosen images, F kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.evidence.captions import caption_agreement, pair_similarity, picture_agreement
from pipeline.evidence.references import CaptionsByImage
from pipeline.evidence.words import WordCoverage

WORDED = {"words": 1, "phrases": 2}
"""Kinds that need no vectors: the number of neighbouring words that count as one term."""
DIRECT = ("regression", "similarity")
"""The cosine of image and caption: images are mapped by a regression, or a dual encoder has one space for both."""
ABOUT_THE_PAIR = ("words", "phrases", "captions", "regression", "similarity")
"""Kinds that compare a caption with its own image or siblings; `pictures` compares only the siblings with the image."""

LARGEST_TABLE = 1 << 33
"""Pairs of an image and a caption that are all compared, ten minutes of a core; with words alone more are, too."""


@dataclass(frozen=True)
class Vectors:
    """Centred unit vectors of a split's captions (M, V), and of its images in the same space (N, V) or None; float32,
    or float16 where there are many.
    """

    caption_MV: Tensor
    image_NV: Tensor | None

    def to(self, device: torch.device, kept: torch.dtype | None = None) -> Vectors:
        """The same on a device, and in the precision `kept`."""
        image_NV = self.image_NV
        return Vectors(self.caption_MV.to(device, kept), None if image_NV is None else image_NV.to(device, kept))

    def captions(self, caption_J: Tensor) -> Tensor:
        """Of these captions (J, V), float32."""
        return self.caption_MV[caption_J].float()

    def images(self, image_I: Tensor) -> Tensor:
        """Of these images (I, V), float32."""
        assert self.image_NV is not None
        return self.image_NV[image_I].float()


def is_large(images: int, captions: int) -> bool:
    """Whether there are more pairs than can all be compared."""
    return images * captions > LARGEST_TABLE


class SplitEvidence:
    """Evidence about any pair of a split's images and captions.

    Args:
        kinds: of `EvidenceParams.kinds`, in the order of the columns.
        caption_image_M: the image of each caption; every image has one.
        worded: the coverage of each kind in `WORDED`.
        vectors: for the other kinds.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        caption_image_M: Tensor,
        worded: Mapping[str, WordCoverage],
        vectors: Vectors | None = None,
    ) -> None:
        """Group the captions by image."""
        self.kinds, self.caption_image_M, self.worded, self.vectors = tuple(kinds), caption_image_M, worded, vectors
        self.images = int(caption_image_M.max()) + 1
        self._captions = CaptionsByImage(caption_image_M, self.images)

    @property
    def large(self) -> bool:
        """Whether there are more pairs than `LARGEST_TABLE`."""
        return is_large(self.images, len(self.caption_image_M))

    def of(self, image_K: Tensor, caption_K: Tensor, kinds: Sequence[str] | None = None) -> Tensor:
        """The evidence about each pair (K, F), float64; NaN where there is none. A caption of the image itself is not
        one of its own references. `kinds`: columns; None: all.
        """
        image_K, caption_K = (part.to(self.caption_image_M.device) for part in (image_K, caption_K))
        columns = [self._column(kind, image_K, caption_K) for kind in self.kinds if kinds is None or kind in kinds]
        return torch.stack([column_K.double().cpu() for column_K in columns], dim=1)

    def block(self, image_I: Tensor, caption_J: Tensor) -> list[Tensor]:
        """The evidence about each of these images and captions, (I, J) float32 for each kind, as `of` for other images'
        captions; not defined for their own.
        """
        return [self._block(kind, image_I, caption_J) for kind in self.kinds]

    def _column(self, kind: str, image_K: Tensor, caption_K: Tensor) -> Tensor:
        if kind in WORDED:
            return self.worded[kind].of(image_K, caption_K)
        assert self.vectors is not None
        caption_MV, image_NV = self.vectors.caption_MV, self.vectors.image_NV
        if kind == "captions":
            return caption_agreement(caption_MV, self.caption_image_M, image_K, caption_K)
        assert image_NV is not None
        if kind in DIRECT:
            return pair_similarity(image_NV, caption_MV, image_K, caption_K)
        return picture_agreement(image_NV, caption_MV, self.caption_image_M, image_K, caption_K)

    def _block(self, kind: str, image_I: Tensor, caption_J: Tensor) -> Tensor:
        if kind in WORDED:
            return self.worded[kind].block(image_I, caption_J).to(self.caption_image_M.device)
        assert self.vectors is not None
        if kind == "captions":
            return self._nearest_captions(image_I, self.vectors.captions(caption_J))
        if kind in DIRECT:
            return self.vectors.images(image_I) @ self.vectors.captions(caption_J).T
        # the mean cosine of an image with the references is its product with their mean
        mean_IV = self.mean_captions(image_I)
        shown_J, place_J = self.caption_image_M[caption_J].unique(return_inverse=True)
        return (mean_IV @ self.vectors.images(shown_J).T)[:, place_J]

    def mean_captions(self, image_I: Tensor) -> Tensor:
        """The mean caption vector of each of these images (I, V), float32."""
        assert self.vectors is not None
        caption_T, place_T = self._captions.members(image_I)
        text_TV = self.vectors.captions(caption_T)
        mean_IV = text_TV.new_zeros(len(image_I), text_TV.shape[1]).index_add(0, place_T, text_TV)
        return mean_IV / self._captions.count_N[image_I][:, None]

    def _nearest_captions(self, image_I: Tensor, text_JV: Tensor) -> Tensor:
        """The jackknifed maximum (see `jackknifed_maximum`), one reference at a time."""
        assert self.vectors is not None
        count_I = self._captions.count_N[image_I]
        first_IJ = text_JV.new_full((len(image_I), len(text_JV)), -torch.inf)
        second_IJ = first_IJ.clone()
        fewest = int(count_I.min())
        for place in range(int(count_I.max())):
            everyone = place < fewest
            rows = slice(None) if everyone else (count_I > place).nonzero().squeeze(1)
            reference = self._captions.order_M[self._captions.first_N[image_I[rows]] + place]
            cosine = self.vectors.captions(reference) @ text_JV.T
            first, second = first_IJ[rows], second_IJ[rows]  # the tables themselves where it is everyone, else copies
            torch.maximum(second, torch.minimum(first, cosine), out=second)
            torch.maximum(first, cosine, out=first)
            if not everyone:
                first_IJ[rows], second_IJ[rows] = first, second
        expected_IJ = first_IJ.lerp_(second_IJ, 1 / count_I[:, None])
        return expected_IJ if fewest > 1 else expected_IJ.masked_fill_((count_I < 2)[:, None], torch.nan)
