"""A split with the labels of its pairs: which of them match in truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.data.splits.truth_file import Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mark = Literal["own", "true", "false", "unjudged", "unknown"]
VERDICTS: dict[Mark, bool] = {"true": True, "false": False}


@dataclass(frozen=True)
class Labelled:
    """A split, and the truth about its pairs where there is one."""

    split: Split
    truth: Truth | None

    @cached_property
    def caption_image_M(self) -> Tensor:
        """The image of each caption."""
        return torch.tensor(self.split.caption_image)

    def mark(self, image: int, caption: int) -> Mark:
        """A pair's kind: `own`, else its label; `unjudged` without a label, `unknown` without any truth."""
        if self.split.caption_image[caption] == image:
            return "own"
        if self.truth is None:
            return "unknown"
        key_P, true_P = self._verdicts
        wanted = image * len(self.split.captions) + caption
        place = key_P.searchsorted(wanted, side="right") - 1  # of two labels, the last
        if place < 0 or key_P[place] != wanted:
            return "false" if self.truth.exact else "unjudged"
        return "true" if true_P[place] else "false"

    @cached_property
    def _verdicts(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The labelled pairs as sorted numbers, and whether each matches."""
        assert self.truth is not None
        key_P = self.truth.image_P * len(self.split.captions) + self.truth.caption_P
        order_P = key_P.argsort(kind="stable")
        return key_P[order_P], self.truth.true_P[order_P]
