"""The evidence of stage `evidence` about the splits that the report's lists cover."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.evidence.kinds import ABOUT_THE_PAIR, SplitEvidence
from pipeline.evidence.table import (
    LEAST_AUC,
    RECORD,
    evidence_prior,
    has_evidence,
    open_evidence,
    read_pairs,
    used_kinds,
)
from pipeline.files import read_record
from pipeline.params import SamplerParams


@dataclass(frozen=True)
class ListedEvidence:
    """By split: the listed pairs (see `read_pairs`) and the evidence about any pair; K, what the list is by, and the
    kinds of evidence in words.
    """

    pairs: Mapping[str, Mapping[str, Tensor]]
    opened: Mapping[str, SplitEvidence]
    prior: float
    how: str
    kinds: str = ""
    is_bound: bool = False
    """Whether 1/K was estimated: then it is a lower bound of the share that matches."""
    used: Sequence[str] = ()
    """The kinds that the posterior uses."""

    @property
    def trust(self) -> dict[str, Tensor]:
        """The trust in each pair of each split."""
        return {name: pairs["trust_M"] for name, pairs in self.pairs.items()}


def read_evidence(
    folder: Path, splits: dict[str, Split], chosen: str, sampler: SamplerParams, train: Split | None = None
) -> ListedEvidence:
    """The evidence about the chosen splits, a name or "all"; about no split if stage `evidence` found none.

    `train`: the split whose words count, where `splits` has no such one. K is that of the run, but the estimate where
    the run's posterior is not this one: `sampler.prior` is then of FNE's.
    """
    record = read_record(folder / RECORD, "evidence")
    if not has_evidence(folder):
        how = "test pairs by the posterior of the trained similarity, because there is no evidence (evidence.kinds)"
        return ListedEvidence({}, {}, math.nan, how)
    names = [name for name in splits if chosen in (name, "all")]
    estimated = sampler.posterior == "similarity" or sampler.prior == "estimated"
    prior, used = evidence_prior(sampler, folder), used_kinds(record)
    how = (
        f"highest posterior first, by the evidence ({', '.join(used)}) in {', '.join(names)}, without any "
        f"training; prior: one pair in {prior:.0f} matches ({'estimated' if estimated else 'sampler.prior'})"
    )
    pairs = {name: read_pairs(folder, name, splits[name]) for name in names}
    opened = {
        name: open_evidence(folder, ({} if train is None else {"train": train}) | splits, name, record["kinds"])
        for name in names
    }
    encoders = ", ".join(dict.fromkeys(Path(encoder["name"]).name for encoder in record["encoders"].values()))
    named = [kind for kind in record["kinds"] if kind in used or (kind in ABOUT_THE_PAIR and record["seen"][kind])]
    kinds_said = ", ".join(named) + (f" by {encoders}" if encoders else "") + "; no labels, no training"
    is_bound = estimated and record["auc"] >= LEAST_AUC
    return ListedEvidence(pairs, opened, prior, how, kinds_said, is_bound, used)
