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


@dataclass(frozen=True)
class Vectors:
    """Centred unit vectors of a split's captions (M, V), and of its images in the same space (N, V) or None."""

    caption_MV: Tensor
    image_NV: Tensor | None


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

    def of(self, image_K: Tensor, caption_K: Tensor, kinds: Sequence[str] | None = None) -> Tensor:
        """The evidence about each pair (K, F), float64; NaN where there is none. A caption of the image itself is not
        one of its own references. `kinds`: columns; None: all.
        """
        image_K, caption_K = (part.to(self.caption_image_M.device) for part in (image_K, caption_K))
        columns = [self._column(kind, image_K, caption_K) for kind in self.kinds if kinds is None or kind in kinds]
        return torch.stack([column_K.double().cpu() for column_K in columns], dim=1)

    def block(self, image_I: Tensor) -> list[Tensor]:
        """The evidence about these images and *all* captions, (I, M) float32 for each kind, as `of` for other images'
        captions; not defined for their own.
        """
        return [self._block(kind, image_I) for kind in self.kinds]

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

    def _block(self, kind: str, image_I: Tensor) -> Tensor:
        if kind in WORDED:
            return self.worded[kind].block(image_I).to(self.caption_image_M.device)
        assert self.vectors is not None
        caption_MV, image_NV = self.vectors.caption_MV, self.vectors.image_NV
        if kind == "captions":
            return self._nearest_captions(image_I, caption_MV)
        assert image_NV is not None
        if kind in DIRECT:
            return image_NV[image_I] @ caption_MV.T
        # the mean cosine of an image with the references is its product with their mean
        caption_T, place_T = self._captions.members(image_I)
        mean_IV = caption_MV.new_zeros(len(image_I), caption_MV.shape[1]).index_add(0, place_T, caption_MV[caption_T])
        mean_IV /= self._captions.count_N[image_I][:, None]
        return (mean_IV @ image_NV.T)[:, self.caption_image_M]

    def _nearest_captions(self, image_I: Tensor, caption_MV: Tensor) -> Tensor:
        """The jackknifed maximum (see `jackknifed_maximum`), one reference at a time."""
        count_I = self._captions.count_N[image_I]
        first_IM = caption_MV.new_full((len(image_I), len(caption_MV)), -torch.inf)
        second_IM = first_IM.clone()
        for place in range(int(count_I.max())):
            chosen = (count_I > place).nonzero().squeeze(1)
            reference = self._captions.order_M[self._captions.first_N[image_I[chosen]] + place]
            cosine = caption_MV[reference] @ caption_MV.T
            first = first_IM[chosen]
            second_IM[chosen] = torch.maximum(second_IM[chosen], torch.minimum(first, cosine))
            first_IM[chosen] = torch.maximum(first, cosine)
        count_I1 = count_I[:, None]
        return (((count_I1 - 1) * first_IM + second_IM) / count_I1).where(count_I1 > 1, torch.nan)
