"""Reading the truth that stage `split` wrote, where a data set knows more than its pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.paths import TRUTH, TRUTH_KIND

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRUE_FROM = {"scenes": 1.0, "crowd": 0.5, "expert": 3.0}  # the relevance from which a pair counts as a match


@dataclass(frozen=True)
class Truth:
    """P pairs of one split that somebody, or a grammar, has judged."""

    exact: bool
    """True: every pair that is not listed is false. False: it is unknown."""
    how: str
    image_P: NDArray[np.int64]
    caption_P: NDArray[np.int64]
    true_P: NDArray[np.bool_]


def read_truth(folder: Path, split: str, source: str | None = None) -> Truth | None:
    """What is known of a split's pairs, from one source (None: the first of scenes, crowd, expert that is there).

    Raises:
        InputError: when the files are there but cannot be read.
    """
    import pandas

    kind_path, table_path = folder / TRUTH_KIND.name, folder / TRUTH.name
    if not kind_path.exists():
        return None
    try:
        kind = json.loads(kind_path.read_text(encoding="utf-8"))
        table = pandas.read_parquet(table_path)
        table = table[table["split"] == split]
        chosen = source or next((name for name in TRUE_FROM if (table["source"] == name).any()), None)
        table = table[table["source"] == chosen]
        exact, how = kind["kind"] == "exact", str(kind["how"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{table_path} or {kind_path.name}: not readable ({error}); run `dvc repro split`") from None
    if chosen is None:
        return None
    return Truth(
        exact,
        how,
        table["image"].to_numpy("int64"),
        table["caption"].to_numpy("int64"),
        table["relevance"].to_numpy() >= TRUE_FROM[chosen],
    )
