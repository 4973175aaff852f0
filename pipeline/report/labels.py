"""A split with what is known about its pairs: the data set's truth, and a person's judgments.

Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Truth

if TYPE_CHECKING:
    import pandas

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
        labels = self._labels(judged.image_J[kept_J], judged.caption_J[kept_J], judged.match_J[kept_J])
        return self._look_up(labels, image_P, caption_P)

    def unsure(self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The pairs that a person looked at and was unsure of."""
        if self.judged is None or self.judged.unsure is None:
            return np.zeros(len(image_P), np.bool_)
        unsure = self.judged.unsure
        labels = self._labels(unsure.image_U, unsure.caption_U, np.ones(len(unsure.image_U), np.bool_))
        return self._look_up(labels, image_P, caption_P).known_P

    @cached_property
    def _by_truth(self) -> pandas.Series:
        assert self.truth is not None
        return self._labels(self.truth.image_P, self.truth.caption_P, self.truth.true_P)

    def _labels(
        self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64], yes_P: NDArray[np.bool_]
    ) -> pandas.Series:
        """1 or 0 by the number of the pair; of two labels of a pair, the last."""
        import pandas

        labels = pandas.Series(yes_P.astype(np.int8), index=self._number(image_P, caption_P))
        return labels[~labels.index.duplicated(keep="last")]

    def _look_up(self, labels: pandas.Series, image_P: NDArray[np.int64], caption_P: NDArray[np.int64]) -> Verdicts:
        found_P = labels.reindex(self._number(image_P, caption_P), fill_value=-1).to_numpy()
        return Verdicts(found_P >= 0, found_P == 1)

    def _number(self, image_P: NDArray[np.int64], caption_P: NDArray[np.int64]) -> NDArray[np.int64]:
        return image_P.astype(np.int64) * len(self.split.captions) + caption_P


def _none(pairs: int) -> Verdicts:
    nothing_P = np.zeros(pairs, np.bool_)
    return Verdicts(nothing_P, nothing_P)
