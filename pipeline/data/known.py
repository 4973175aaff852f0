"""Reading what stage `split` knows beyond the pairs: which match in truth, and which training pairs are noise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.splits import read_split
from pipeline.errors import InputError
from pipeline.paths import NOISE, TRUTH, TRUTH_KIND

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


@dataclass(frozen=True)
class Noise:
    """The M training captions that may have been put with other images; rows are those of train.json."""

    permutation_M: NDArray[np.int64]
    """The row of the clean split that row m's caption comes from."""
    true_image_M: NDArray[np.int64]
    """The image that row m's caption was written for."""
    wrong_M: NDArray[np.bool_]
    """Whether that is another image than the one it is put with."""
    ratio: float
    """The share of captions that was to be shuffled; of a published index, which says none, the share that moved."""


def read_noise(folder: Path) -> Noise | None:
    """The training split's noise; None without any, and where no noise.json is.

    Raises:
        InputError: when noise.json cannot be read or does not fit train.json.
    """
    import numpy as np

    path = folder / NOISE.name
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["permutation"] is None:
            return None
        permutation_M, true_image_M = (np.array(record[key], np.int64) for key in ("permutation", "true_image"))
        ratio = float(record["chosen"] / len(permutation_M) if record["ratio"] is None else record["ratio"])
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error!r}); run `dvc repro split`") from None
    image_M = np.array(read_split(folder / "train.json").caption_image)
    if not image_M.shape == permutation_M.shape == true_image_M.shape:
        raise InputError(f"{path}: {len(permutation_M)} captions, train.json has {len(image_M)}; run `dvc repro split`")
    return Noise(permutation_M, true_image_M, true_image_M != image_M, ratio)
