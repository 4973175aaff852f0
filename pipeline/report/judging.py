"""How many pairs of a list are right at each threshold, and which pairs a person should judge next.

A list is, by split, `(image_P, caption_P, probability_P)` of all its pairs, not only of those that the page shows.

Shapes: P pairs, H strata.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pipeline.data.captions import one_line
from pipeline.report.labels import Labelled, Verdicts
from pipeline.report.pair_list import Pair
from pipeline.retrieval.stratified import expected_total, stratified_total
from pipeline.retrieval.uncertainty import Estimate

if TYPE_CHECKING:
    import pandas

Columns = Mapping[str, tuple[Tensor, Tensor, Tensor]]
LEVELS = tuple(step / 100 for step in range(1, 100))
"""The positions of the page's slider."""
EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Strata of the probability; the last includes 1."""


@dataclass(frozen=True)
class Right:
    """What a list's pairs are compared with: `truth` and `answers` say which pairs are what the list says they are,
    `unsure` which ones a person could not answer.
    """

    truth: Callable[[str, np.ndarray, np.ndarray], Verdicts]
    answers: Callable[[str, np.ndarray, np.ndarray, bool], Verdicts]
    unsure: Callable[[str, np.ndarray, np.ndarray], np.ndarray]


def matching(splits: Mapping[str, Labelled]) -> Right:
    """For the list of unpaired pairs: right if they match."""
    return Right(
        lambda name, image_P, caption_P: splits[name].verdicts(image_P, caption_P),
        lambda name, image_P, caption_P, proposed: splits[name].answers(image_P, caption_P, proposed=proposed),
        lambda name, image_P, caption_P: splits[name].unsure(image_P, caption_P),
    )


def mismatched(splits: Mapping[str, Labelled], true_image: Mapping[str, Any]) -> Right:
    """For the list of pairs of the data set: right if the caption is not of the image."""

    def truth(name: str, image_P: np.ndarray, caption_P: np.ndarray) -> Verdicts:
        if name not in true_image:
            return Verdicts(np.zeros(len(image_P), np.bool_), np.zeros(len(image_P), np.bool_))
        return Verdicts(np.ones(len(image_P), np.bool_), np.asarray(true_image[name])[caption_P] != image_P)

    def answers(name: str, image_P: np.ndarray, caption_P: np.ndarray, proposed: bool) -> Verdicts:
        known_P, yes_P = splits[name].answers(image_P, caption_P, proposed=proposed)
        return Verdicts(known_P, known_P & ~yes_P)

    return Right(truth, answers, lambda name, image_P, caption_P: splits[name].unsure(image_P, caption_P))


@dataclass(frozen=True)
class Measured:
    """A list at the page's thresholds, and what judgments of randomly chosen pairs say of it."""

    expected: Estimate
    """How many pairs are right, by their probabilities alone."""
    levels: Mapping[str, list[float]]
    """By `LEVELS`: `pairs`, the `expected` number that is right, and of those with a truth or an answer, how many
    are known (`known`, `asked`) and how many of them are right (`right`, `yes`)."""
    judged: list[dict[str, Any]]
    """By lower edge of the strata: `above`, `pairs`, `asked` and the `precision` as an `Estimate`; empty without
    judgments of proposed pairs."""


def measured(columns: Columns, right: Right) -> Measured:
    """Compare a list with everything that is known of its pairs."""
    table = _table(columns, right)
    chance_P = table["probability"].to_numpy()
    place_P = np.searchsorted(LEVELS, chance_P, side="right")

    def above(weight_P: Any) -> list[float]:
        """The sum over the pairs at or above each level."""
        by_place = np.bincount(place_P, weights=weight_P, minlength=len(LEVELS) + 1)
        return [round(float(total), 2) for total in by_place[::-1].cumsum()[::-1][1:]]

    levels = {name: above(table[name]) for name in ("known", "right", "asked", "yes")}
    levels |= {"pairs": above(np.ones(len(table))), "expected": above(chance_P)}
    groups_P = table.groupby(["split", "image"], sort=False).ngroup().to_numpy()
    expected = expected_total(chance_P, groups_P, int(groups_P.max(initial=0)) + 1)
    return Measured(expected, levels, _by_stratum(table))


def proposed(columns: Columns, right: Right, count: int, seed: int) -> list[Pair]:
    """Up to `count` pairs to judge next, drawn at random among those that nobody has looked at, in random order.

    A pair that the person was unsure of is not proposed again. Each comes from the stratum with the fewest answers so
    far, so that a few dozen judgments bound the precision at every threshold.
    """
    draw = np.random.default_rng(seed)
    table = _table(columns, right)
    strata = range(len(EDGES) - 1)
    stratum_P, open_P = strata_of(table["probability"].to_numpy()), ~table[["asked", "unsure"]].any(axis=1).to_numpy()
    waiting = [draw.permutation(np.flatnonzero((stratum_P == stratum) & open_P))[:count].tolist() for stratum in strata]
    answers = [int(table["drawn"][stratum_P == stratum].sum()) for stratum in strata]
    chosen: list[int] = []
    while len(chosen) < count and any(waiting):
        _, stratum = min((answers[stratum], stratum) for stratum in strata if waiting[stratum])
        chosen.append(waiting[stratum].pop())
        answers[stratum] += 1
    rows = table.iloc[draw.permutation(chosen)] if chosen else table[:0]
    return list(zip(*(rows[name].tolist() for name in ("split", "image", "caption", "probability")), strict=True))


def judgments_csv(splits: Mapping[str, Labelled]) -> str:
    """The answers about these splits, one for each picture and text, with the columns of the page's judgments.csv."""
    answers: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, labelled in splits.items():
        split, judged = labelled.split, labelled.judged
        if judged is None:
            continue
        verdict_J = np.where(judged.match_J, "yes", "no")
        parts = [(judged.image_J, judged.caption_J, verdict_J, judged.own_J, judged.proposed_J)]
        if (pairs := judged.unsure) is not None:
            verdict_U = np.full(len(pairs.image_U), "unsure")
            parts.append((pairs.image_U, pairs.caption_U, verdict_U, pairs.own_U, pairs.proposed_U))
        rows = (row for part in parts for row in zip(*(column.tolist() for column in part), strict=True))
        for image, caption, verdict, own, proposed in rows:
            key = split.images[image], one_line(split.captions[caption].strip())
            about = verdict, "pair" if own else "match", "proposed" if proposed else "by hand"
            answers.setdefault(key, (name, *key, *about))
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(["split", "image", "caption", "verdict", "list", "chosen"])
    table.writerows(answers.values())
    return written.getvalue()


def strata_of(probability_P: np.ndarray) -> np.ndarray:
    """The stratum of each probability, from 0."""
    return np.clip(np.searchsorted(EDGES, probability_P, side="right") - 1, 0, len(EDGES) - 2)


def stratum_name(probability: float) -> str:
    """As `0.3–0.5`."""
    first = int(strata_of(np.array([probability]))[0])
    return f"{EDGES[first]:g}–{EDGES[first + 1]:g}"


def _table(columns: Columns, right: Right) -> pandas.DataFrame:
    """A row per pair: `known`, `right` by the truth; `asked`, `yes` by all answers, `drawn`, `drawn_yes` by those to
    proposed pairs; `unsure` has no answer.
    """
    import pandas

    parts = []
    for name, (image_T, caption_T, probability_T) in columns.items():
        image_P, caption_P = image_T.numpy(), caption_T.numpy()
        truth, every, drawn = (
            right.truth(name, image_P, caption_P),
            right.answers(name, image_P, caption_P, False),
            right.answers(name, image_P, caption_P, True),
        )
        parts.append(
            pandas.DataFrame(
                {
                    "split": name,
                    "image": image_P,
                    "caption": caption_P,
                    "probability": probability_T.double().numpy(),
                    **{"known": truth.known_P, "right": truth.yes_P, "asked": every.known_P, "yes": every.yes_P},
                    **{"drawn": drawn.known_P, "drawn_yes": drawn.yes_P},
                    "unsure": right.unsure(name, image_P, caption_P),
                }
            )
        )
    return pandas.concat(parts, ignore_index=True)


def _by_stratum(table: pandas.DataFrame) -> list[dict[str, Any]]:
    if not table["drawn"].any():
        return []
    stratum_P = strata_of(table["probability"].to_numpy())
    size_H, asked_H, yes_H = (
        np.bincount(stratum_P, weights=weight_P, minlength=len(EDGES) - 1)
        for weight_P in (np.ones(len(table)), table["drawn"], table["drawn_yes"])
    )
    rows = []
    for first, edge in enumerate(EDGES[:-1]):
        if size := size_H[first:].sum():
            total = stratified_total(size_H[first:], asked_H[first:], yes_H[first:])
            precision = Estimate(*(part / size for part in total))
            asked = int(asked_H[first:].sum())
            rows.append({"above": edge, "pairs": int(size), "asked": asked, "precision": precision, "total": total})
    return rows
