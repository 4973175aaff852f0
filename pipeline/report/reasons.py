"""What the evidence about a pair was, in words: which terms are missing, which caption is nearest.

The caption itself is never compared with itself: where it is one of the image's own, only the others count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import isnan

import torch

from pipeline.data.splits.format import Split
from pipeline.evidence.kinds import WORDED, SplitEvidence
from pipeline.evidence.words import caption_terms
from pipeline.report.pair_list import PairList, Reason

MOST_TERMS = 5  # shown
NUMBERS = {
    "regression": "cosine of image and caption, by a regression before any training",
    "similarity": "cosine of image and caption, both centred, by the dual encoder",
    "pictures": "mean cosine of the caption's own picture with the image's captions",
}


def reasons(evidence: SplitEvidence, split: Split, image: int, caption: int) -> list[Reason]:
    """One reason for each kind of evidence that the pair has."""
    image_1, caption_1 = (torch.tensor([row], device=evidence.caption_image_M.device) for row in (image, caption))
    value_F = evidence.of(image_1, caption_1)[0].tolist()
    others = [row for row in (evidence.caption_image_M == image).nonzero().flatten().tolist() if row != caption]
    found = []
    for kind, value in zip(evidence.kinds, value_F, strict=True):
        if isnan(value):
            continue
        if kind in WORDED:
            missing = missing_terms(split.captions[caption], [split.captions[row] for row in others], WORDED[kind])
            text = f"{value:.0%} covered{_listed(missing)}"
        elif kind == "captions":
            assert evidence.vectors is not None
            cosine_n = (
                evidence.vectors.captions(torch.tensor(others, device=caption_1.device))
                @ evidence.vectors.captions(caption_1)[0]
            )
            nearest = int(cosine_n.argmax())
            text = f"{value:.2f}, nearest is “{split.captions[others[nearest]]}” (cosine {cosine_n[nearest]:.2f})"
        else:
            text = f"{value:.2f}, {NUMBERS[kind]}"
        found.append(Reason(kind, value, text))
    return found


def explained(
    pairs: PairList, evidence: Mapping[str, SplitEvidence], splits: Mapping[str, Split], kinds: Collection[str]
) -> PairList:
    """The list with the reasons of each pair; none where the split has no evidence. `kinds`: those that ordered it."""
    columns = zip(*(pairs.table[name] for name in ("split", "image", "caption")), strict=True)
    found = [
        [reason for reason in reasons(evidence[name], splits[name], image, caption) if reason.kind in kinds]
        if name in evidence
        else []
        for name, image, caption in columns
    ]
    return replace(pairs, reasons=found)


def missing_terms(caption: str, references: Sequence[str], words: int) -> list[str]:
    """The caption's terms of so many neighbouring words that no reference has, each once, in their order."""
    there = {term for reference in caption_terms(references, words) for term in reference.split()}
    terms = dict.fromkeys(caption_terms([caption], words)[0].split())
    return [term.replace("_", " ") for term in terms if term not in there]


def _listed(terms: Sequence[str]) -> str:
    if not terms:
        return ""
    more = f" and {len(terms) - MOST_TERMS} more" if len(terms) > MOST_TERMS else ""
    return f", missing {', '.join(f'“{term}”' for term in terms[:MOST_TERMS])}{more}"
