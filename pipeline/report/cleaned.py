"""The clean version of audited data: which pairs are kept, and which unpaired images and captions match after all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.files import read_record
from pipeline.report.audit import FACTS

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Cleaned:
    """Audited data and how it was cleaned.

    `pairs` has `split`, `image`, `caption` and `weight` of the kept ones; `removed` those left out; `matches` has
    `split`, `image`, `caption`, `written_for`, `posterior` and `answer` of the unpaired ones that count as matches;
    `others` those of the other listed unpaired pairs.
    """

    pairs: pandas.DataFrame
    removed: pandas.DataFrame
    matches: pandas.DataFrame
    others: pandas.DataFrame
    facts: dict[str, Any]
    least_trust: float
    least_posterior: float


def cleaned(report: Path, least_trust: float, least_posterior: float, *, weighted: bool = False) -> Cleaned:
    """Read what an audit wrote, and decide by a person's answer where there is one, else by the evidence.

    Args:
        report: the folder of a report.
        least_trust: a pair with less is left out.
        least_posterior: an unpaired image and caption with at least this match.
        weighted: keep every pair that nobody judged wrong, with its trust as weight; else kept pairs weigh 1.

    Raises:
        InputError: when the folder holds no audit.
    """
    import pandas

    facts = read_record(report / FACTS, "audit")
    tables = []
    for name in ("pairs.parquet", "matches.parquet"):
        try:
            tables.append(pandas.read_parquet(report / name))
        except Exception as error:  # Arrow's reader raises many types on a damaged file
            raise InputError(f"{report / name}: not readable ({error}); make the report again") from None
    pairs, found = tables
    trust = pairs["trust"].fillna(1.0).mask(pairs["answer"] == "yes", 1.0).mask(pairs["answer"] == "no", 0.0)
    kept = (pairs["answer"] != "no") & (weighted | (trust >= least_trust))
    pairs = pairs.assign(weight=trust if weighted else 1.0)
    match = (found["answer"] == "yes") | ((found["posterior"] >= least_posterior) & (found["answer"] != "no"))
    return Cleaned(
        pairs[kept].reset_index(drop=True),
        pairs[~kept].reset_index(drop=True),
        found[match].reset_index(drop=True),
        found[~match].reset_index(drop=True),
        facts,
        least_trust,
        least_posterior,
    )


def data_card(data: Cleaned, form: str, files: list[str], command: str) -> str:
    """README.md of the cleaned data: what was removed or added, by what evidence, and how sure that is."""
    kept, removed, added = (int((table["answer"] != "").sum()) for table in (data.pairs, data.removed, data.matches))
    lines = [
        f"# {data.facts['title'].removeprefix('Audit: ')}, cleaned",
        "",
        f"Format: `{form}`. Files: {', '.join(f'`{name}`' for name in files)}. Made by `{command}`.",
        "",
        "## What changed",
        "",
        f"- {len(data.removed)} of {len(data.removed) + len(data.pairs)} pairs are left out: judged wrong, or trusted "
        f"less than {data.least_trust:g} by the evidence.",
        f"- {len(data.matches)} images and captions that were not paired are known to match: judged so, or with a "
        f"posterior of at least {data.least_posterior:g}. docs/audit.md says what a format makes of them.",
        f"- Of these decisions a person made {removed} and {added}; of the kept pairs {kept} were looked at. All "
        "others come from the evidence alone.",
        "",
        "## By what evidence",
        "",
        f"{data.facts['evidence'] or 'none'}.",
        "",
        "## How sure",
        "",
        *(f"- {statement}" for statement in data.facts["statements"]),
    ]
    matches, dropped = (table[table["answer"] == ""] for table in (data.matches, data.removed))
    if len(matches):
        right = matches["posterior"].sum()
        lines.append(f"- Of the {len(matches)} matches that nobody judged, {right:.0f} are right by their posteriors.")
    if len(dropped):
        wrong = (1 - dropped["trust"]).sum()
        lines.append(
            f"- Of the {len(dropped)} pairs left out that nobody judged, {wrong:.0f} are wrong by their trust."
        )
    lines.append("- Probabilities are as right as the evidence is calibrated; judge a sample in the report to check.")
    return "\n".join(lines) + "\n"
