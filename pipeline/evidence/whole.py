"""The evidence about all splits together, for data whose splits were only drawn: no pair of a picture is left out."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.data.splits.format import Split
from pipeline.evidence.contrast import contrasted_trust
from pipeline.evidence.make import write_pairs
from pipeline.evidence.table import PAIRS, open_evidence, read_posterior
from pipeline.evidence.vectors import write_rows
from pipeline.features.shards import all_features, shard_path

WHOLE = "all"


def write_whole(folder: Path, splits: dict[str, Split]) -> Split:
    """Add `folder/all` to what stage `evidence` wrote, and return the union of the splits.

    Images of the training split have the vectors by a regression without them, as there.
    """
    for side in ("captions", "images"):
        if shard_path(folder / "train", side, 0).exists():
            write_rows(folder / WHOLE, side, torch.cat([all_features(folder / name, side) for name in splits]))
    return united(splits)


def write_audited(folder: Path, splits: dict[str, Split], train: Split, seed: int) -> None:
    """Write each split's listed pairs, by the posterior of the validation split, and `contrasted_trust` in its own."""
    kinds, posterior = read_posterior(folder)
    for name in splits:
        evidence = open_evidence(folder, splits | {"train": train}, name, kinds)
        write_pairs(folder / name / PAIRS, evidence, posterior, contrasted_trust(evidence, seed))


def united(splits: dict[str, Split]) -> Split:
    """The images of all splits with their captions, one split after the other."""
    return Split.of([picture for split in splits.values() for picture in split.pictures()])
