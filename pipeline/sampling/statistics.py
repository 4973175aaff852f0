"""The two populations of similarities that the posterior compares: matched pairs and their hardest mismatches.

Shapes: B batch. All values stay tensors on the features' device, so a step never waits for the host.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["exact", "running"]


class Population:
    """Count, mean and unbiased variance of the similarities so far; zeros before the first."""

    def __init__(self, kind: Kind) -> None:
        """Start empty."""
        self.kind = kind
        self.reset()

    def reset(self) -> None:
        """Set everything to zero."""
        self.count = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        """Unbiased variance (n - 1); 0 for fewer than two similarities."""
        return self._squares / (self.count - 1).clamp(min=1)

    def update(self, values: Tensor, seen: Tensor) -> None:
        """Add the `values` where `seen` is True (both of the same shape)."""
        self._to(values.device)
        values = values.detach().double()
        added = seen.sum()
        batch_mean = values.where(seen, 0).sum() / added.clamp(min=1)
        count = self.count + added
        shift = (batch_mean - self.mean).where(added > 0, 0)
        mean = self.mean + shift * added / count.clamp(min=1)
        if self.kind == "exact":  # Chan, Golub and LeVeque's merge of two populations
            within = (values - batch_mean).square().where(seen, 0).sum()
            self._squares = self._squares + within + shift.square() * self.count * added / count.clamp(min=1)
        else:  # FNE's published code: squares around the mean after this batch, not corrected later
            self._squares = self._squares + (values - mean).square().where(seen, 0).sum()
        self.count, self.mean = count, mean

    def state_dict(self) -> dict[str, Tensor]:
        """The three values, to resume from."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()`."""
        self.count, self.mean, self._squares = state["count"], state["mean"], state["squares"]

    def _to(self, device: torch.device) -> None:
        if self.count.device != device:
            state = self.state_dict().items()  # non_blocking: the first step of an epoch does not wait for the GPU
            self.load_state_dict({name: value.to(device, non_blocking=True) for name, value in state})


class SimilarityStatistics:
    """Similarities of mutually nearest pairs and of their hardest mismatches over an epoch (Li et al. 2023).

    A pair counts only if the image's most similar caption is its own and the caption's most similar image is its own.
    It gives one positive similarity and two negative ones: the highest other value in its row and in its column.
    A tie is not a match: a collapsed model must not look certain.

    Args:
        kind: "exact", or "running" as in FNE's published code: a biased variance; the first of equal similarities is
            the nearest, so an image that is twice in a batch may match once; and a negative similarity of a mismatch
            counts as 0, because that code masks the diagonal with zeros.
    """

    def __init__(self, kind: Kind = "exact") -> None:
        """Start with both populations empty."""
        self.kind = kind
        self.positive = Population(kind)
        self.negative = Population(kind)

    def reset(self) -> None:
        """Empty both populations, at the start of an epoch."""
        self.positive.reset()
        self.negative.reset()

    def update(self, similarity_BB: Tensor, known_positive_BB: Tensor | None = None) -> None:
        """Add a batch: cosine similarities of image i (row) and caption j (column); the diagonal holds the pairs.

        Args:
            similarity_BB: (B, B).
            known_positive_BB: (B, B) bool, True where caption j was written for image i; those off the diagonal are
                left out of the search. None: only the diagonal is known, as in FNE's published code.
        """
        similarity_BB = similarity_BB.detach()
        others_BB = ~torch.eye(len(similarity_BB), dtype=torch.bool, device=similarity_BB.device)
        if known_positive_BB is not None:
            others_BB = others_BB & ~known_positive_BB
        other_BB = similarity_BB.where(others_BB, -torch.inf)
        positive_B = similarity_BB.diagonal()
        hardest_caption_B, hardest_image_B = other_BB.amax(dim=1), other_BB.amax(dim=0)
        # a pair without any mismatch gives -inf, which must not enter the mean
        compared_B = hardest_caption_B.isfinite() & hardest_image_B.isfinite()
        if self.kind == "running":
            place_B = torch.arange(len(similarity_BB), device=similarity_BB.device)
            searched_BB = other_BB.diagonal_scatter(positive_B)
            nearest_B = (searched_BB.argmax(dim=1) == place_B) & (searched_BB.argmax(dim=0) == place_B)
        else:
            nearest_B = (positive_B > hardest_caption_B) & (positive_B > hardest_image_B)
        matched_B = compared_B & nearest_B
        mismatch_2B = torch.cat([hardest_caption_B, hardest_image_B])
        if self.kind == "running":
            mismatch_2B = mismatch_2B.clamp(min=0)
        self.positive.update(positive_B, matched_B)
        self.negative.update(mismatch_2B, torch.cat([matched_B, matched_B]))

    def as_numbers(self) -> dict[str, dict[str, float]]:
        """Both populations' mean, variance and count as plain numbers."""
        return {
            name: {"mean": float(part.mean), "variance": float(part.variance), "count": float(part.count)}
            for name, part in (("positive", self.positive), ("negative", self.negative))
        }

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Both populations, to resume from."""
        return {"positive": self.positive.state_dict(), "negative": self.negative.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from `state_dict()`."""
        self.positive.load_state_dict(state["positive"])
        self.negative.load_state_dict(state["negative"])
