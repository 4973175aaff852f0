"""A batch's loss: which candidates, which weights, which loss.

Shapes: b anchors on this process, B the global batch, Q memory, C candidates, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.evidence.listed import ListedPosterior
from pipeline.models.memory import Memory
from pipeline.objectives.contrastive import infonce_loss
from pipeline.objectives.triplet import mean_violation_loss, triplet_loss
from pipeline.params import LossParams, SamplerParams
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.sampling.strategies import Sample, all_weights, draw_negative, hardest_weights, sample

Draw = Callable[[Tensor, Tensor], Tensor]


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
    """The loss of each anchor: the sum of both directions' hinges (FNE), or the mean of both InfoNCE losses (CLIP).

    Args:
        sampler: which candidates are negatives.
        loss: the loss over them.
        warmup: the loss of warm-up epochs: "triplet" with the batch's hardest negative, or "infonce" over the batch.
        statistics: updated with every batch before sampling.
        memory: None: candidates are the batch only.
        truth_NM: (N, M) bool, where every match of the training split is known: the share of false negatives among
            the sampled negatives is then logged.
        draw: chooses one candidate per anchor from weights (b, C) and uniform numbers (b,).
        evidence: the posterior of a training pair by its ids, where `sampler.posterior` is from evidence.
    """

    def __init__(
        self,
        sampler: SamplerParams,
        loss: LossParams,
        warmup: str,
        statistics: SimilarityStatistics,
        memory: Memory | None,
        truth_NM: Tensor | None = None,
        draw: Draw = draw_negative,
        evidence: ListedPosterior | None = None,
    ) -> None:
        """Store the settings and the state."""
        self.evidence = evidence
        self.sampler = sampler
        self.loss = loss
        self.warmup = warmup
        self.statistics = statistics
        self.memory = memory
        self.truth_NM = truth_NM
        self.draw = draw

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
            warming_up: candidates are the batch only, without the memory.
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
        loss_b: Tensor | None = None
        both_shares = []
        for direction, uniform_b in enumerate(uniform_2b):
            to_text = direction == 0
            anchor, candidate = (own.image, candidates.text) if to_text else (own.text, candidates.image)
            remembered = None if memory is None else memory.text if to_text else memory.image
            # the gradient needs only the drawn negative, not the product with all candidates
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._draws(warming_up)):
                similarity_bC = anchor @ candidate.T
                if remembered is not None:
                    similarity_bC = torch.cat([similarity_bC, anchor @ remembered.T], 1)
            own_b = (anchor * candidate[place_b]).sum(dim=1)
            ids_C = _ids(candidates, memory, to_text=to_text)
            evidence_bC = None
            if self.evidence is not None:
                evidence_bC = self.evidence(own.image_id if to_text else own.caption_id, ids_C, to_text=to_text)
            sampled = self._sample(similarity_bC, own_b, known_bC, evidence_bC, uniform_b, warming_up)
            if self._draws(warming_up):
                drawn_b = self.draw(sampled.weights_BC, uniform_b)
                negative_b1 = (anchor * _chosen(candidate, remembered, drawn_b)).sum(dim=1, keepdim=True)
                added_b = triplet_loss(negative_b1, own_b, torch.zeros_like(drawn_b), self.loss.margin)
                # an anchor without any candidate has no negative
                added_b = added_b * (sampled.weights_BC.gather(1, drawn_b[:, None]).squeeze(1) > 0)
            else:
                added_b = self._loss(similarity_bC, own_b, sampled.weights_BC, temperature, warming_up)
            loss_b = added_b if loss_b is None else loss_b + added_b
            both_shares.append(self._shares(sampled, known_bC, own, ids_C, to_text))
        assert loss_b is not None
        logged = {f"sampler/{name}": torch.stack([one[name] for one in both_shares]).mean() for name in both_shares[0]}
        return loss_b, logged | {"similarity/collapse": collapse(batch.image, batch.text, same_BB)}

    def _sample(
        self,
        similarity_bC: Tensor,
        own_b: Tensor,
        excluded_bC: Tensor,
        evidence_bC: Tensor | None,
        uniform_b: Tensor,
        warming_up: bool,
    ) -> Sample:
        if not warming_up:
            return sample(
                similarity_bC,
                own_b,
                excluded_bC,
                self.statistics,
                self.sampler,
                margin=self.loss.margin,
                uniform_B=uniform_b,
                evidence_BC=evidence_bC,
            )
        nothing_bC = torch.zeros_like(excluded_bC)
        dropped_bC = None
        if self.sampler.drop is not None:  # evidence is known from the first step, similarities mean nothing yet
            dropped_bC = nothing_bC if evidence_bC is None else (evidence_bC > self.sampler.drop) & ~excluded_bC
            excluded_bC = excluded_bC | dropped_bC
        if self.warmup == "infonce":
            return Sample(all_weights(excluded_bC), nothing_bC, nothing_bC, dropped_bC)
        return Sample(hardest_weights(similarity_bC.detach(), excluded_bC), nothing_bC, nothing_bC, dropped_bC)

    def _loss(
        self,
        similarity_bC: Tensor,
        own_b: Tensor,
        weights_bC: Tensor,
        temperature: float | Tensor,
        warming_up: bool,
    ) -> Tensor:
        if (self.warmup if warming_up else self.loss.name) == "infonce":
            return infonce_loss(similarity_bC, own_b, weights_bC, temperature) / 2
        return mean_violation_loss(similarity_bC, own_b, weights_bC, self.loss.margin)

    def _draws(self, warming_up: bool) -> bool:
        """Whether the loss takes one negative per anchor."""
        if warming_up:
            return self.warmup == "triplet"
        return self.loss.name == "triplet" and self.sampler.strategy != "all"

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
            truth, anchor_id = (self.truth_NM, own.image_id) if to_text else (self.truth_NM.T, own.caption_id)
            true_bC = truth[anchor_id][:, ids_C.clamp(min=0)]
            true_bC = true_bC & (ids_C >= 0)  # a randomly filled slot of the memory belongs to no image
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


def _ids(candidates: Pairs, memory: Memory | None, *, to_text: bool) -> Tensor:
    """The ids (C,) of the batch's candidates, then of the memory's; -1 for a slot that is not written."""
    kind = "caption_id" if to_text else "image_id"
    ids_B: Tensor = getattr(candidates, kind)
    return ids_B if memory is None else torch.cat([ids_B, getattr(memory, kind)])


def _count(mask_bC: Tensor) -> Tensor:
    return mask_bC.sum(dtype=torch.int32)  # several times faster than in int64


def _chosen(candidate_BD: Tensor, remembered_QD: Tensor | None, drawn_b: Tensor) -> Tensor:
    """Rows (b, D) of the batch's candidates followed by the memory's, without concatenating them."""
    if remembered_QD is None:
        return candidate_BD[drawn_b]
    count = len(candidate_BD)
    from_memory_bD = remembered_QD[(drawn_b - count).clamp(min=0)]
    return torch.where(drawn_b[:, None] < count, candidate_BD[drawn_b.clamp(max=count - 1)], from_memory_bD)
