"""An audit's two lists and the page's head, for a trained run as for data without any training; and the files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

from pipeline.data.images import ImageArchive
from pipeline.errors import InputError
from pipeline.files import atomic_folder, write_json, write_table, write_text
from pipeline.params import AuditParams
from pipeline.report.evidence import ListedEvidence
from pipeline.report.false_negatives import by_evidence, false_negative_list
from pipeline.report.findings import Listing, listings, match_columns
from pipeline.report.labels import Labelled
from pipeline.report.lists import every_match, every_pair, false_negative_table, suspect_table
from pipeline.report.page import Contents, Statement, count, render_page
from pipeline.report.pair_list import CUTOFFS, Pair, PairList
from pipeline.report.pictures import Pictures
from pipeline.retrieval.uncertainty import Estimate

FACTS = "audit.json"


@dataclass(frozen=True)
class Findings:
    """Both lists with the evidence that they come from."""

    evidence: ListedEvidence
    splits: Mapping[str, Labelled]
    false_negatives: Listing
    suspects: Listing


def findings(
    evidence: ListedEvidence,
    splits: Mapping[str, Labelled],
    settings: AuditParams,
    worst: PairList,
    true_image: Mapping[str, Sequence[int]],
    otherwise: Callable[[int], list[Pair]] | None = None,
) -> Findings:
    """What an audit finds in these splits.

    Args:
        evidence: about some of the splits.
        splits: all, by name.
        settings: how much is listed.
        worst: the suspected pairs.
        true_image: see `true_images`.
        otherwise: so many unpaired pairs, most probable first, where there is no evidence.
    """
    count = settings.false_negatives
    found: list[Pair] = []
    if evidence.pairs:
        found = by_evidence(match_columns(evidence), splits, max(count, *CUTOFFS))
    elif otherwise is not None:
        found = otherwise(max(count, *CUTOFFS))
    listed = false_negative_list(found, splits, evidence.how, count)
    return Findings(evidence, splits, *listings(listed, worst, evidence, splits, true_image))


def statements(found: Findings) -> list[Statement]:
    """The page's head: how many of both, how right the lists are, and what the evidence was."""
    matches, wrong = found.false_negatives, found.suspects
    said = []
    if matches.measured is None or wrong.measured is None:
        why = "no image has a second caption for the words to be compared with, or there are too few images"
        by_model = f"the list of false negatives is of {found.evidence.how}, that of wrong pairs of {wrong.pairs.how}"
        return [Statement("–", f"No evidence about this data: {by_model if len(matches.pairs.table) else why}.")]
    splits = [found.splits[name].split for name in found.evidence.pairs]
    unpaired = sum((len(split.images) - 1) * len(split.captions) for split in splits)
    of_matches, of_wrong = f"{count(unpaired)} such pairs", f"{count(sum(len(s.captions) for s in splits))} pairs"
    for listing, what, verb, probably, of in (
        (matches, "images and captions that were not put together", "match", "probably match", of_matches),
        (wrong, "pairs of the data set", "are wrong", "are probably wrong", of_wrong),
    ):
        assert listing.measured is not None
        expected, levels = listing.measured.expected, listing.measured.levels
        summed = f"by the sum of their probabilities {_with_interval(expected)}"
        if levels["known"][0] and levels["known"][0] == levels["pairs"][0]:
            among = f"among the {count(levels['pairs'][0])} with a probability of at least 0.01"
            of_all = f"by the sum of all probabilities, also lower ones, {_with_interval(expected)}"
            said.append(Statement(count(levels["right"][0]), f"{what} {verb} in truth, {among}; {of_all}"))
        elif listing.measured.judged:
            total, asked_about = listing.measured.judged[0]["total"], listing.measured.judged[0]["pairs"]
            by = f"by your judgments of pairs drawn at random: {_with_interval(total)}; {summed}"
            if listing is matches:  # the other pairs, of low probability, are not listed and not drawn
                listed = f"among the {count(asked_about)} of {of} that the evidence lists"
                said.append(Statement(f"≥ {count(total.value)}", f"{what} {verb}: so many {listed}, {by}"))
            else:
                said.append(Statement(count(total.value), f"{what} {verb}, of {of}, {by}"))
        elif listing is matches and found.evidence.is_bound:
            why = "a lower bound, because the share of matches is estimated from below"
            said.append(Statement(f"≥ {count(expected.value)}", f"{what} {probably}, of {of}: {summed}; {why}"))
        else:
            said.append(Statement(count(expected.value), f"{what} {probably}, of {of}: {summed}"))
    for listing, what in ((matches, "likely matches do match"), (wrong, "suspected pairs are wrong")):
        if listing.pairs.precision:
            first = listing.pairs.precision[min(1, len(listing.pairs.precision) - 1)]
            share = f"{100 * first.right / first.judged:.0f} %" if first.judged else "–"
            said.append(Statement(share, f"of the first {first.first} {what} in truth: {first}"))
        assert listing.measured is not None
        asked, yes = listing.measured.levels["asked"][0], listing.measured.levels["yes"][0]
        if asked:
            said.append(Statement(f"{yes:.0f} of {asked:.0f}", f"judged {what}, by hand and at random"))
    assumed = "at least" if found.evidence.is_bound else "as was set or published (sampler.prior)"
    said.append(
        Statement(
            f"1 in {count(found.evidence.prior)}",
            f"unpaired pairs matches, {assumed}; evidence: {found.evidence.kinds}",
        )
    )
    return said


def _with_interval(found: Estimate) -> str:
    return f"{count(found.value)} (95 %: {count(found.low)} to {count(found.high)})"


def write_report(folder: Path, contents: Contents, found: Findings, archive: Path, side: int) -> int:
    """Write the page, its two lists as CSV and every pair as parquet; returns the page's size in bytes.

    Raises:
        InputError: when an image does not decode.
    """
    page = render_page(contents, Pictures(ImageArchive(archive), side))
    splits = {name: labelled.split for name, labelled in found.splits.items()}
    trust = found.evidence.trust
    with atomic_folder(folder) as made:
        write_text(made / "index.html", page)
        matches = false_negative_table(found.false_negatives.pairs, splits, trust)
        matches.to_csv(made / "false_negatives.csv", index=False)
        suspect_table(found.suspects.pairs, splits).to_csv(made / "noisy_pairs.csv", index=False)
        write_json(made / FACTS, facts(contents, found))
        write_table(made / "pairs.parquet", every_pair(found.splits, trust))
        write_table(made / "matches.parquet", every_match(found.splits, match_columns(found.evidence)))
    return len(page.encode())


def facts(contents: Contents, found: Findings) -> dict[str, Any]:
    """The page's head for other programs: how many pairs of both lists, by the probabilities and by judgments."""
    record: dict[str, Any] = {
        "title": contents.title,
        "statements": [f"{one.figure}: {one.words}" for one in contents.statements],
        "evidence": found.evidence.kinds,
        "prior": None if isnan(found.evidence.prior) else found.evidence.prior,
        "made_by": dict(contents.footer),
    }
    for name, listing in (("matches", found.false_negatives), ("wrong", found.suspects)):
        if listing.measured is not None:
            judged = listing.measured.judged
            record[name] = {
                "expected": list(listing.measured.expected),
                "judged": list(judged[0]["total"]) if judged else None,
                "asked": listing.measured.levels["asked"][0],
            }
    return record


def said(found: Findings) -> list[str]:
    """Two lines for the terminal: how many pairs each list has, and how many such pairs are expected in all."""
    lines = []
    bound = "at least" if found.evidence.is_bound else "about"
    for listing, what, right, about, sought in (
        (found.false_negatives, "possible false negatives", "match", bound, "matches"),
        (found.suspects, "suspects", "are wrong", "about", "wrong pairs"),
    ):
        pairs = listing.pairs
        top = ", ".join(map(str, pairs.precision))
        precision = f"; at the top of the ranking {top} {right} in truth" if pairs.precision else ""
        expected = ""
        if listing.measured is not None:
            expected = f"; {about} {count(listing.measured.expected.value)} {sought} expected in all"
        lines.append(f"{len(pairs.table)} {what} listed{precision}{expected}")
    return lines


def made_by(command: str, run: str, commit: str) -> list[tuple[str, str]]:
    """The page's footer; its date is now, or what SOURCE_DATE_EPOCH says (reproducible-builds.org)."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        when = datetime.fromtimestamp(float(given or time.time()), UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        raise InputError(f"SOURCE_DATE_EPOCH={given!r}: expected the seconds since 1970") from None
    return [
        (name, text) for name, text in (("run", run), ("commit", commit), ("date", when), ("command", command)) if text
    ]
