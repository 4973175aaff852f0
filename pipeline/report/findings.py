"""What an audit finds: unpaired pairs that probably match and pairs that are probably wrong, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from pipeline.evidence.kinds import ABOUT_THE_PAIR
from pipeline.report.evidence import ListedEvidence
from pipeline.report.judging import Columns, Measured, Right, matching, measured, mismatched, proposed, stratum_name
from pipeline.report.labels import Labelled
from pipeline.report.pair_list import Pair, PairList
from pipeline.report.reasons import explained

TO_JUDGE = (30, 20)
"""Unpaired pairs and pairs of the data set that a page proposes to judge next."""
SEED = 1  # draws them


@dataclass(frozen=True)
class Listing:
    """A list of the page; `measured` is None where the list is not by a probability of every pair."""

    pairs: PairList
    measured: Measured | None
    to_judge: Sequence[Pair] = ()

    def stratum(self, probability: float) -> str:
        """The stratum of a pair's probability, for judgments.csv; empty where there is none."""
        return "" if self.measured is None else stratum_name(probability)


def match_columns(evidence: ListedEvidence) -> Columns:
    """All listed unpaired pairs with the probability that they match."""
    return {
        name: (
            pairs["image_P"].long(),
            pairs["caption_P"].long(),
            torch.sigmoid(pairs["log_ratio_P"].double() - math.log(evidence.prior - 1)),
        )
        for name, pairs in evidence.pairs.items()
    }


def wrong_columns(evidence: ListedEvidence, splits: Mapping[str, Labelled]) -> Columns:
    """All pairs of the data set with the probability that they are wrong."""
    return {
        name: (splits[name].caption_image_M, torch.arange(len(trust_M)), 1 - trust_M.double())
        for name, trust_M in evidence.trust.items()
    }


def listings(
    false_negatives: PairList,
    suspects: PairList,
    evidence: ListedEvidence,
    splits: Mapping[str, Labelled],
    true_image: Mapping[str, Sequence[int]],
) -> tuple[Listing, Listing]:
    """Both lists with the reasons for each pair, what is known of all pairs, and what to judge next."""
    contents = {name: labelled.split for name, labelled in splits.items()}
    lists = [  # the trust looks at what is about the pair itself
        explained(pairs, evidence.opened, contents, kinds)
        for pairs, kinds in ((false_negatives, evidence.used), (suspects, ABOUT_THE_PAIR))
    ]
    if not evidence.pairs:
        return Listing(lists[0], None), Listing(lists[1], None)
    columns = match_columns(evidence), wrong_columns(evidence, splits)
    rights: tuple[Right, Right] = matching(splits), mismatched(splits, true_image)
    made = [
        Listing(pairs, measured(every, right), proposed(every, right, count, SEED))
        for pairs, every, right, count in zip(lists, columns, rights, TO_JUDGE, strict=True)
    ]
    return made[0], made[1]


def one_a_pair(listing: Listing) -> PairList:
    """The pairs to judge next as a list; only what a person needs, so that no number sways the answer."""
    import pandas

    table = pandas.DataFrame(listing.to_judge, columns=["split", "image", "caption", "probability"])
    return replace(listing.pairs, table=table, measure="probability", precision=[], reasons=())
