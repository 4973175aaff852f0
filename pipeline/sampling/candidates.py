"""What a strategy, a target or a margin may look at: one direction of a step.

Shapes: B anchors, C candidates (the batch's, then the memory's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Evidence(Protocol):
    """What is known of pairs before training, looked up by id; every method's rows are the anchors.

    `usual_agreement` is the agreement that 70 % of random pairs stay below.
    """

    usual_agreement: float

    def guide(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """How well each candidate (B, C) and each own pair (B,) matches."""

    def agreement(self, candidates: Candidates) -> Tensor:
        """(B, C): the cosine of the pair's caption with the nearest caption of the pair's image."""

    def captions(self, candidates: Candidates) -> Tensor:
        """(B, C): the cosine of the anchor's caption with the candidate's."""

    def pictures(self, candidates: Candidates) -> Tensor:
        """(B, C): the cosine of the anchor's image with the candidate's."""


class Ids(NamedTuple):
    """Row numbers of images and captions in the training split; negative for no real pair."""

    image: Tensor
    caption: Tensor


class Moment(NamedTuple):
    """Where a training is."""

    step: int = 0
    epoch: int = 0
    ramp: float = 1.0  # from 0 to 1 over the first epoch after the warm-up


START = Moment()


@dataclass(frozen=True)
class Candidates:
    """The anchors of one direction, and their candidates.

    Args:
        similarity_BC: cosines, with gradient only where a loss over all candidates needs one.
        own_similarity_B: s⁺, each anchor's similarity to its own pair.
        excluded_BC: bool, candidates that must not be negatives: of the anchor's own image, not written yet, dropped.
        own_B: the column of each anchor's own pair, which is excluded too.
        anchors: the ids (B,) of the anchors' pairs.
        ids: the ids (C,) of the candidates' pairs.
        to_text: anchors are images and candidates captions; else the other way round.
        temperature: of the loss.
        moment: where the training is.
        momentum: computes the similarity (B, C) of the anchors' momentum features to the candidates; None without a
            memory.
        whole: computes the similarity of the anchors of all processes to the candidates; its first columns are their
            own pairs, in order.
        truth: computes which pairs match (B, C), bool; None where it is not known.
        threshold_B: the anchors' thresholds, see `pipeline.sampling.thresholds`.
        evidence: see `Evidence`; None where no preset needs it.
        judged_BC: bool, candidates of other images that a person judged to match; excluded too.
    """

    similarity_BC: Tensor
    own_similarity_B: Tensor
    excluded_BC: Tensor
    own_B: Tensor
    anchors: Ids
    ids: Ids
    to_text: bool
    temperature: float | Tensor
    moment: Moment = START
    momentum: Callable[[], Tensor] | None = None
    whole: Callable[[], Tensor] | None = None
    truth: Callable[[], Tensor] | None = None
    threshold_B: Tensor | None = None
    evidence: Evidence | None = None
    judged_BC: Tensor | None = None

    @cached_property
    def positive_BC(self) -> Tensor:
        """Bool, known matches: candidates of the anchor's own image, without its own pair, and judged ones."""
        same_BC = self.anchors.image[:, None] == self.ids.image[None, :]
        if self.judged_BC is not None:
            same_BC = same_BC | self.judged_BC
        return same_BC.scatter(1, self.own_B[:, None], False)

    @property
    def eligible_BC(self) -> Tensor:
        """Bool, the candidates that a target may name: negatives and known positives."""
        return ~self.excluded_BC | self.positive_BC

    def own_first(self, value_BC: Tensor, others: float = 0.0) -> Tensor:
        """(B, 1 + C): the own pair's value, then every candidate's; `others` where it is not eligible."""
        own_B1 = value_BC.gather(1, self.own_B[:, None])
        return torch.cat([own_B1, value_BC.where(self.eligible_BC, others)], dim=1)

    @property
    def known(self) -> Evidence:
        """The evidence of a preset that needs some."""
        assert self.evidence is not None
        return self.evidence
