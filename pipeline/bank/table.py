"""NPC's memory bank on disk: one row per training pair (`bank/pairs.parquet`), and metrics of the bank.

Columns: `caption` (row of the training captions, from 0), `image`, `loss`, `clean_probability`, `clean`, and
`image_entry` and `text_entry`: the clean pairs (rows of captions) for the pair's image and for its caption.
The table is empty if `pairs.weighting` needs no bank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import InputError
from pipeline.files import write_table
from pipeline.paths import BANK_PAIRS

if TYPE_CHECKING:
    import pandas
    from numpy.typing import NDArray

COLUMNS = {
    "caption": "int32",
    "image": "int32",
    "loss": "float32",
    "clean_probability": "float32",
    "clean": "bool",
    "image_entry": "int32",
    "text_entry": "int32",
}


@dataclass(frozen=True)
class Bank:
    """What training needs: for each of M pairs two clean pairs (entries), and the pair's clean probability."""

    image_entry_M: NDArray[np.int64]
    text_entry_M: NDArray[np.int64]
    clean_probability_M: NDArray[np.float64]
    """NaN for a published bank."""

    @property
    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The clean pairs for the images, and for the captions."""
        return self.image_entry_M, self.text_entry_M


def write_bank(folder: Path, table: pandas.DataFrame | None) -> None:
    """Write the table, or an empty one."""
    import pandas

    table = pandas.DataFrame({name: [] for name in COLUMNS}) if table is None else table
    write_table(folder / BANK_PAIRS.name, table[list(COLUMNS)].astype(COLUMNS))


def read_bank(folder: Path, captions: int) -> Bank:
    """Read the bank of a training split with this many captions.

    Raises:
        InputError: when it is missing, unreadable, empty or for another split.
    """
    import pandas

    path = folder / BANK_PAIRS.name
    try:
        table = pandas.read_parquet(path)
        rows, entries = table["caption"].to_numpy("int64"), table[["image_entry", "text_entry"]].to_numpy("int64")
        clean = table["clean_probability"].to_numpy("float64")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `dvc repro bank` makes it") from None
    except Exception as error:  # Arrow's reader raises many types on a damaged file
        raise InputError(f"{path}: not readable ({error}); run `dvc repro bank`") from None
    whole = np.array_equal(rows, np.arange(captions))
    if not whole or not ((entries >= 0) & (entries < captions)).all():
        raise InputError(
            f"{path}: {len(rows)} pairs, expected one for each of the {captions} training captions; "
            "run `dvc repro bank`"
        )
    return Bank(entries[:, 0], entries[:, 1], clean)


def bank_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The bank's metrics in `bank.json`, by the names under which a run logs them; empty for a published bank."""
    if "clean_share" not in record:
        return {}
    found = {"bank/clean_share": record["clean_share"]}
    found |= {f"bank/{name}_mean": mean for name, mean in zip(("clean", "noisy"), record["mean"], strict=True)}
    return found | ({"bank/clean_auc": record["clean_auc"]} if "clean_auc" in record else {})
