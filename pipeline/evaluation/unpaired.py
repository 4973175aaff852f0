"""How well scores say which unpaired pairs match: the trained similarity, its posterior, and the evidence.

Shapes: N images, M captions, P unpaired pairs with a known label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.data.splits.truth_file import Truth
from pipeline.evaluation.encoded import Encoded
from pipeline.evidence.captions import pair_similarity
from pipeline.retrieval.relevance import calibration_error, ranking_quality, reliability
from pipeline.retrieval.uncertainty import quality_intervals

if TYPE_CHECKING:
    import pandas

BLOCK = 1 << 20  # pairs of an image and any caption in memory at a time
MOST_PAIRS = 8_000_000  # per source: 3 GB; 320 images of MS-COCO
NEAREST = 50  # of an image's unpaired captions, by similarity: where retrieval and sampling look

Chance = Callable[[Tensor, Tensor], Tensor]
"""The probability (P,) that an image and a caption match, from evidence."""


@dataclass(frozen=True)
class Unpaired:
    """Pairs that the split does not list, (P,): scores, whether they match in truth, and whether the caption is among
    the image's `NEAREST` unpaired captions.
    """

    image_P: Tensor
    similarity_P: Tensor
    posterior_P: Tensor
    true_P: Tensor
    near_P: Tensor
    evidence_P: Tensor | None = None

    def parts(self) -> Iterator[tuple[str, Unpaired]]:
        """All pairs (prefix ""), and the near ones (prefix "near/"), where both kinds of pairs occur."""
        for prefix, pairs in (("", self), ("near/", self._kept(self.near_P))):
            if 0 < int(pairs.true_P.sum()) < len(pairs.true_P):
                yield prefix, pairs

    def scores(self) -> dict[str, Tensor]:
        """By name; `similarity` is no probability."""
        scores = {"similarity": self.similarity_P, "posterior": self.posterior_P}
        return scores if self.evidence_P is None else scores | {"evidence": self.evidence_P}

    def _kept(self, kept_P: Tensor) -> Unpaired:
        parts: dict[str, Any] = {name: part if part is None else part[kept_P] for name, part in vars(self).items()}
        return Unpaired(**parts)


def unpaired_pairs(
    encoded: Encoded, truth: Truth, posterior: Callable[[Tensor], Tensor], evidence: Chance | None
) -> Unpaired:
    """All labelled unpaired pairs; where every pair is known, of the first images, at most `MOST_PAIRS`."""
    asked_P = truth.asked_P["i2t"]
    image_P, caption_P = torch.from_numpy(truth.image_P[asked_P]), torch.from_numpy(truth.caption_P[asked_P])
    true_P = torch.from_numpy(truth.true_P[asked_P])
    if truth.exact:
        image_P, caption_P, true_P = _all_pairs(image_P[true_P], caption_P[true_P], len(encoded.text_MD))
    kept_P = encoded.caption_image_M[caption_P] != image_P
    image_P, caption_P, true_P = image_P[kept_P], caption_P[kept_P], true_P[kept_P]
    similarity_P = pair_similarity(encoded.image_ND, encoded.text_MD, image_P, caption_P).cpu()
    near_P = similarity_P >= _nearest_bounds(encoded, image_P)
    evidence_P = None if evidence is None else evidence(image_P, caption_P)
    return Unpaired(image_P, similarity_P, posterior(similarity_P), true_P, near_P, evidence_P)


def quality_report(pairs: Unpaired) -> dict[str, Any]:
    """`{"posterior": {"auc", "ap", "ece"}, …, "near": {…}}`; `ece` of probabilities only."""
    report: dict[str, Any] = {}
    for prefix, part in pairs.parts():
        inner = report.setdefault(prefix.rstrip("/"), {}) if prefix else report
        for name, score_P in part.scores().items():
            inner[name] = ranking_quality(score_P, part.true_P)
            if name != "similarity":
                inner[name]["ece"] = calibration_error(score_P, part.true_P)
    return report


def quality_limits(pairs: Unpaired, replicates: int, seed: int) -> dict[str, Any]:
    """95 % intervals of areas and average precisions, nested as `quality_report`. The calibration error has none: a
    resampled one is larger on average, so percentiles would miss it.
    """
    limits: dict[str, Any] = {}
    for prefix, part in pairs.parts():
        inner = limits.setdefault(prefix.rstrip("/"), {}) if prefix else limits
        for name, score_P in part.scores().items():
            parts = (score_P.double().numpy(), part.true_P.numpy(), part.image_P.numpy())
            inner[name] = {key: list(value) for key, value in quality_intervals(*parts, replicates, seed).items()}
    return limits


def reliability_curve(unpaired: Mapping[str, Unpaired]) -> pandas.DataFrame:
    """Predicted probability and share of true pairs, one row per source, score and bin (`relevance.reliability`)."""
    import pandas

    rows = [
        {"source": source, "score": name, **row}
        for source, pairs in unpaired.items()
        for name, score_P in pairs.scores().items()
        if name != "similarity"
        for row in reliability(score_P, pairs.true_P)
    ]
    return pandas.DataFrame(rows, columns=["source", "score", "low", "high", "mean_posterior", "true_share", "count"])


def _nearest_bounds(encoded: Encoded, image_P: Tensor) -> Tensor:
    """For each pair, the similarity of its image's `NEAREST`-th unpaired caption (P,)."""
    asked_A, place_P = image_P.unique(return_inverse=True)
    bounds = []
    for image_I in asked_A.split(max(1, BLOCK // len(encoded.text_MD))):
        similarity_IM = (encoded.image_ND[image_I] @ encoded.text_MD.T).cpu()
        similarity_IM.masked_fill_(encoded.caption_image_M[None, :] == image_I[:, None], -torch.inf)
        bounds.append(similarity_IM.topk(min(NEAREST, similarity_IM.shape[1]), dim=1).values[:, -1])
    # a product of matrices may round otherwise than one of two vectors
    return torch.cat(bounds)[place_P] - 1e-6


def _all_pairs(image_P: Tensor, caption_P: Tensor, captions: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs, with their labels, of the first images that have a true pair; at most `MOST_PAIRS`."""
    asked_A = image_P.unique()[: max(1, MOST_PAIRS // captions)]
    place_P = torch.searchsorted(asked_A, image_P)
    inside_P = place_P < len(asked_A)
    true_AM = torch.zeros(len(asked_A), captions, dtype=torch.bool)
    true_AM[place_P[inside_P], caption_P[inside_P]] = True
    return asked_A.repeat_interleave(captions), torch.arange(captions).repeat(len(asked_A)), true_AM.flatten()
