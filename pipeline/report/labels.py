"""A split with what is known about its pairs: the data set's truth, and a person's judgments.

Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Truth

Mark = Literal["own", "true", "false", "unjudged", "unknown"]
VERDICTS: dict[Mark, bool] = {"true": True, "false": False}


class Verdicts(NamedTuple):
    """Of P pairs, which have a verdict, and for which it is yes (False without one)."""

    known_P: NDArray[np.bool_]
    yes_P: NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """A split, the truth about its pairs where there is one, and the answers of `data.judgments`."""

    split: Split
    truth: Truth | None
    judged: Judged | None = None

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
        known_1, yes_1 = self.verdicts(np.array([image]), np.array([caption]))
        return "unjudged" if not known_1[0] else "true" if yes_1[0] else "false"

    def verdicts(self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64]) -> Verdicts:
        """Whether unpaired images and captions match, by the data set's truth."""
        if self.truth is None:
            return _none(len(image_P))
        found = self._look_up(self._by_truth, image_P, caption_P)
        return found if not self.truth.exact else Verdicts(np.ones(len(image_P), np.bool_), found.yes_P)

    def answers(self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64], *, proposed: bool = False) -> Verdicts:
        """Whether images and captions match, by the judgments; `proposed`: by those that were drawn at random."""
        if self.judged is None:
            return _none(len(image_P))
        judged = self.judged
        kept_J = judged.proposed_J if proposed else np.ones(len(judged.image_J), np.bool_)
        labels = self._sorted(judged.image_J[kept_J], judged.caption_J[kept_J], judged.match_J[kept_J])
        return self._look_up(labels, image_P, caption_P)

    def unsure(self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The pairs that a person looked at and was unsure of."""
        if self.judged is None or self.judged.unsure is None:
            return np.zeros(len(image_P), np.bool_)
        unsure = self.judged.unsure
        labels = self._sorted(unsure.image_U, unsure.caption_U, np.ones(len(unsure.image_U), np.bool_))
        return self._look_up(labels, image_P, caption_P).known_P

    @cached_property
    def _by_truth(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        assert self.truth is not None
        return self._sorted(self.truth.image_P, self.truth.caption_P, self.truth.true_P)

    def _sorted(
        self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64], yes_P: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The labelled pairs as sorted numbers, and whether each matches."""
        key_P = image_P * len(self.split.captions) + caption_P
        order_P = key_P.argsort(kind="stable")
        return key_P[order_P], yes_P[order_P]

    def _look_up(
        self,
        labels: tuple[NDArray[np.int64], NDArray[np.bool_]],
        image_P: NDArray[np.int64],
        caption_P: NDArray[np.int64],
    ) -> Verdicts:
        key_L, yes_L = labels
        if not len(key_L):
            return _none(len(image_P))
        wanted_P = image_P.astype(np.int64) * len(self.split.captions) + caption_P
        place_P = key_L.searchsorted(wanted_P, side="right") - 1  # of two labels, the last
        known_P = (place_P >= 0) & (key_L[place_P] == wanted_P)
        return Verdicts(known_P, known_P & yes_L[place_P])


def _none(pairs: int) -> Verdicts:
    nothing_P = np.zeros(pairs, np.bool_)
    return Verdicts(nothing_P, nothing_P)
