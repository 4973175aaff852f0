"""A batch's loss: which candidates, which weights, which loss.

Shapes: b anchors on this process, B the global batch, Q memory, C candidates, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evidence.listed import ListedPosterior
from pipeline.models.memory import Memory
from pipeline.objectives.triplet import triplet_loss
from pipeline.params import LossParams, SamplerParams, TargetsParams
from pipeline.runtime.processes import gather
from pipeline.sampling.candidates import START, Candidates, Evidence, Ids, Moment
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import Sample, all_weights, draw_negative, hardest_weights, sample
from pipeline.sampling.thresholds import Thresholds, quantile_of_candidates, share_above
from pipeline.training.presets import (
    Settings,
    Terms,
    aligned_loss,
    check_own_functions,
    in_denominator,
    loss_of,
    margins_of,
    targets_of,
    weigh,
)

OWN = TargetsParams(name="own", weight=0.0, temperature=1.0)
Draw = Callable[[Tensor, Tensor], Tensor]
"""Chooses one candidate per anchor from weights (b, C) and uniform numbers (b,)."""


class Pairs(NamedTuple):
    """Unit vectors of matched images and captions, (B, D) each, and their row numbers in the split, (B,) each."""

    image: Tensor
    text: Tensor
    image_id: Tensor
    caption_id: Tensor


@torch.no_grad()
def collapse(image_BD: Tensor, text_BD: Tensor, same_BB: Tensor) -> Tensor:
    """The larger of two means: similarity of different images, and of their captions. NaN for a single image.

    1 is a collapse: the towers give the same vector for every input.

    Args:
        image_BD: (B, D) unit vectors.
        text_BD: (B, D) unit vectors.
        same_BB: (B, B) bool, True where both belong to the same image.
    """
    others = (~same_BB).sum()
    means = [(part @ part.T).masked_fill(same_BB, 0).sum() / others for part in (image_BD, text_BD)]
    return torch.stack(means).amax()


class MatchingObjective:
    """The loss of each anchor: the sum of both directions' hinges (FNE), or the mean of both other losses (CLIP).

    Args:
        sampler: which candidates are negatives.
        loss: the loss over them.
        warmup: the loss of warm-up epochs: "triplet" with the batch's hardest negative, or "infonce" over the batch.
        statistics: updated with every batch before sampling.
        memory: None: candidates are the batch only.
        truth_NM: (N, M) bool, where every match of the training split is known: the share of false negatives among
            the sampled negatives is then logged.
        evidence: the posterior of a training pair by its ids, where `sampler.posterior` is from evidence.
        targets: what anchors should match.
        known: what presets ask of a pair before training.
        thresholds: of images and of captions, for `glofnd`.
        matches: 1 for unpaired pairs that are known to match, by their ids; they are never negatives.
    """

    def __init__(
        self,
        sampler: SamplerParams,
        loss: LossParams,
        warmup: str,
        statistics: SimilarityStatistics,
        memory: Memory | None,
        truth_NM: Tensor | None = None,
        evidence: ListedPosterior | None = None,
        targets: TargetsParams = OWN,
        known: Evidence | None = None,
        thresholds: Sequence[Thresholds] | None = None,
        matches: ListedPosterior | None = None,
    ) -> None:
        """Store the settings and the state.

        Raises:
            InputError: when a function or the truth that a setting names is not there.
        """
        self.thresholds, self.matches = thresholds, matches
        self.evidence, self.known = evidence, known
        self.presets = Settings(sampler, targets, loss)
        check_own_functions(self.presets)
        if sampler.strategy == "oracle" and truth_NM is None:
            raise InputError(
                "sampler.strategy = 'oracle': the training split's truth is not known; use generated scenes"
            )
        self.sampler = sampler
        self.loss = loss
        self.warmup = warmup
        self.statistics = statistics
        self.memory = memory
        self.truth_NM = truth_NM
        self.draw: Draw = draw_negative

    def __call__(
        self,
        own: Pairs,
        batch: Pairs,
        momentum: Pairs | None,
        first: int,
        uniform_2b: Tensor,
        temperature: float | Tensor,
        *,
        warming_up: bool,
        bias: float | Tensor = 0.0,
        moment: Moment = START,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's anchors, (b,), and metrics to log: 0-dimensional, NaN where unknown.

        `sampler/cut_down_share`, `sampler/suspected_share` and `sampler/dropped_share` are shares of all candidates,
        `sampler/false_negative_share` is the share of the sampled weight on true matches; for `similarity/collapse`
        see `collapse`.

        Args:
            own: this process's pairs, with gradient.
            batch: the global batch's online pairs.
            momentum: the same pairs through the momentum towers; None without a memory.
            first: index of this process's first pair in the global batch.
            uniform_2b: the uniform numbers of image→text and of text→image.
            temperature: InfoNCE's.
            warming_up: candidates are the batch only, without the memory; targets are the own pairs.
            bias: the sigmoid loss's.
            moment: where the training is.
        """
        by_identity = self.sampler.known_positives == "identity"
        same_BB = batch.image_id[:, None] == batch.image_id[None, :]
        with torch.no_grad():
            self.statistics.update(batch.image @ batch.text.T, same_BB if by_identity else None)
        in_batch = warming_up or momentum is None or self.memory is None
        candidates = batch if in_batch else momentum
        assert candidates is not None
        place_b = torch.arange(first, first + len(own.image), device=own.image.device)
        known_bB = same_BB[place_b]
        if in_batch and not by_identity:  # FNE's published code compares image ids only where there is a memory
            known_bB = place_b[:, None] == torch.arange(len(batch.image), device=own.image.device)[None, :]
        memory = None if in_batch else self.memory
        known_bC = known_bB if memory is None else torch.cat([known_bB, self._known_in(memory, own.image_id)], dim=1)
        anchor_ids, ids = Ids(own.image_id, own.caption_id), _ids(candidates, memory)
        loss_b: Tensor | None = None
        both_shares = []
        for direction, uniform_b in enumerate(uniform_2b):
            to_text = direction == 0
            anchor, candidate = (own.image, candidates.text) if to_text else (own.text, candidates.image)
            remembered = None if memory is None else memory.text if to_text else memory.image
            # the gradient needs only the drawn negative, not the product with all candidates
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._draws(warming_up)):
                similarity_bC = _similarities(candidate, remembered, anchor)
            own_b = (anchor * candidate[place_b]).sum(dim=1)
            ids_C = ids.caption if to_text else ids.image
            anchor_ids_b, never_bC = own.image_id if to_text else own.caption_id, known_bC
            evidence_bC = judged_bC = None
            if self.evidence is not None:
                evidence_bC = self.evidence(anchor_ids_b, ids_C, to_text=to_text)
            if self.matches is not None:
                judged_bC = self.matches(anchor_ids_b, ids_C, to_text=to_text) > 0
                never_bC = known_bC | judged_bC
            similar = partial(_similarities, candidate, remembered)
            averaged, everyone = ((part.image if to_text else part.text) for part in (momentum or batch, batch))
            seen = Candidates(
                *(similarity_bC, own_b, never_bC, place_b, anchor_ids, ids, to_text, temperature, moment),
                momentum=None if momentum is None else partial(similar, averaged, place_b),
                whole=partial(similar, everyone),
                truth=None if self.truth_NM is None else partial(self._true, own, ids_C, to_text),
                evidence=self.known,
                judged_BC=judged_bC,
            )
            if self.thresholds is not None and not warming_up:
                seen = replace(seen, threshold_B=self._moved_thresholds(seen, batch))
            sampled = self._sample(seen, evidence_bC, uniform_b, warming_up)
            margins = None if warming_up else margins_of(seen, self.presets)
            if self._draws(warming_up):
                drawn_b = self.draw(sampled.weights_BC, uniform_b)
                negative_b1 = (anchor * _chosen(candidate, remembered, drawn_b)).sum(dim=1, keepdim=True)
                margin = self.loss.margin if margins is None else margins.gather(1, drawn_b[:, None]).squeeze(1)
                added_b = triplet_loss(negative_b1, own_b, torch.zeros_like(drawn_b), margin)
                # an anchor without any candidate has no negative
                added_b = added_b * (sampled.weights_BC.gather(1, drawn_b[:, None]).squeeze(1) > 0)
            else:
                terms = Terms(similarity_bC, own_b, sampled.weights_BC, temperature, bias, None, margins)
                added_b = self._loss(terms, seen, warming_up)
            loss_b = added_b if loss_b is None else loss_b + added_b
            both_shares.append(self._shares(sampled, never_bC, own, ids_C, to_text))
        assert loss_b is not None
        logged = {f"sampler/{name}": torch.stack([one[name] for one in both_shares]).mean() for name in both_shares[0]}
        return loss_b, logged | {"similarity/collapse": collapse(batch.image, batch.text, same_BB)}

    def _sample(self, seen: Candidates, evidence_bC: Tensor | None, uniform_b: Tensor, warming_up: bool) -> Sample:
        excluded_bC = seen.excluded_BC
        if not warming_up:
            return sample(
                seen.similarity_BC,
                seen.own_similarity_B,
                excluded_bC,
                self.statistics,
                self.sampler,
                margin=self.loss.margin,
                uniform_B=uniform_b,
                evidence_BC=evidence_bC,
                weigh=lambda without_bC: weigh(replace(seen, excluded_BC=without_bC), self.presets),
            )
        nothing_bC = torch.zeros_like(excluded_bC)
        dropped_bC = None
        if self.sampler.drop is not None:  # evidence is known from the first step, similarities mean nothing yet
            dropped_bC = nothing_bC if evidence_bC is None else (evidence_bC > self.sampler.drop) & ~excluded_bC
            excluded_bC = excluded_bC | dropped_bC
        if self.warmup == "infonce":
            return Sample(all_weights(excluded_bC), nothing_bC, nothing_bC, dropped_bC)
        return Sample(hardest_weights(seen.similarity_BC.detach(), excluded_bC), nothing_bC, nothing_bC, dropped_bC)

    def _loss(self, terms: Terms, seen: Candidates, warming_up: bool) -> Tensor:
        if warming_up:
            return loss_of(terms, self.loss, self.warmup)
        targets = targets_of(seen, self.presets)
        if targets is not None:
            whole_bC = terms.weights_BC if self.loss.name == "sigmoid" else in_denominator(terms.weights_BC, targets)
            terms = terms._replace(targets=targets, weights_BC=whole_bC)
        loss_b = loss_of(terms, self.loss, self.loss.name if self.loss.debias is None else "debiased")
        aligned_b = aligned_loss(terms, seen, self.presets)
        return loss_b if aligned_b is None else loss_b + aligned_b

    def _draws(self, warming_up: bool) -> bool:
        """Whether the loss takes one negative per anchor."""
        if warming_up:
            return self.warmup == "triplet"
        return self.loss.name == "triplet" and self.sampler.strategy != "all"

    @torch.no_grad()
    def _moved_thresholds(self, seen: Candidates, batch: Pairs) -> Tensor:
        """The anchors' thresholds (b,), after this batch has moved those of all processes' anchors."""
        assert self.thresholds is not None
        side = 0 if seen.to_text else 1
        thresholds, ids_b = self.thresholds[side], seen.anchors[side]
        ids_B = batch.image_id if seen.to_text else batch.caption_id
        share, among = self.sampler.false_share, (seen.similarity_BC, seen.excluded_BC)
        if self.sampler.threshold == "quantile" and seen.moment.ramp < 1:
            thresholds.begin(ids_B, gather(quantile_of_candidates(*among, share), len(ids_B)))
        else:
            above_b = share_above(*among, thresholds.value_N[ids_b])
            thresholds.update(ids_B, gather(above_b, len(ids_B)), share, seen.moment.epoch)
        return thresholds.value_N[ids_b]

    def _true(self, own: Pairs, ids_C: Tensor, to_text: bool) -> Tensor:
        """Which pairs match in truth (b, C), bool."""
        assert self.truth_NM is not None
        truth, anchor_id = (self.truth_NM, own.image_id) if to_text else (self.truth_NM.T, own.caption_id)
        true_bC = truth[anchor_id][:, ids_C.clamp(min=0)]
        return true_bC & (ids_C >= 0)  # a randomly filled slot of the memory belongs to no image

    @staticmethod
    def _known_in(memory: Memory, image_id_b: Tensor) -> Tensor:
        return (image_id_b[:, None] == memory.image_id[None, :]) | ~memory.filled[None, :]

    @torch.no_grad()
    def _shares(
        self, sampled: Sample, excluded_bC: Tensor, own: Pairs, ids_C: Tensor, to_text: bool
    ) -> dict[str, Tensor]:
        offered = (excluded_bC.numel() - _count(excluded_bC)).clamp(min=1)
        false_negative = torch.full((), torch.nan, device=excluded_bC.device)
        if self.truth_NM is not None:
            true_bC = self._true(own, ids_C, to_text)
            weights_bC = sampled.weights_BC
            share_b = (weights_bC * true_bC).sum(dim=1) / weights_bC.sum(dim=1).clamp(min=torch.finfo().tiny)
            false_negative = share_b.mean()
        shares = {
            "cut_down_share": _count(sampled.cut_down_BC) / offered,
            "suspected_share": _count(sampled.suspected_BC) / offered,
            "false_negative_share": false_negative,
        }
        if sampled.dropped_BC is not None:
            shares["dropped_share"] = _count(sampled.dropped_BC) / offered
        return shares


def _similarities(
    candidate_BD: Tensor, remembered_QD: Tensor | None, anchor_XD: Tensor, place_b: Tensor | None = None
) -> Tensor:
    """Of the anchors, or of those at `place_b`, to the batch's candidates, then to the memory's (X, C)."""
    anchor_XD = anchor_XD if place_b is None else anchor_XD[place_b]
    similarity_XC = anchor_XD @ candidate_BD.T
    return similarity_XC if remembered_QD is None else torch.cat([similarity_XC, anchor_XD @ remembered_QD.T], 1)


def _ids(candidates: Pairs, memory: Memory | None) -> Ids:
    """The ids (C,) of the batch's candidates, then of the memory's; negative for a slot that is not written."""
    batch = Ids(candidates.image_id, candidates.caption_id)
    if memory is None:
        return batch
    stored = Ids(memory.image_id, memory.caption_id)
    return Ids(*(torch.cat(both) for both in zip(batch, stored, strict=True)))


def _count(mask_bC: Tensor) -> Tensor:
    return mask_bC.sum(dtype=torch.int32)  # several times faster than in int64


def _chosen(candidate_BD: Tensor, remembered_QD: Tensor | None, drawn_b: Tensor) -> Tensor:
    """Rows (b, D) of the batch's candidates followed by the memory's, without concatenating them."""
    if remembered_QD is None:
        return candidate_BD[drawn_b]
    count = len(candidate_BD)
    from_memory_bD = remembered_QD[(drawn_b - count).clamp(min=0)]
    return torch.where(drawn_b[:, None] < count, candidate_BD[drawn_b.clamp(max=count - 1)], from_memory_bD)
