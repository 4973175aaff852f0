"""Parameters of the published method: those of params.yaml but for the evidence and the loss, for tests of formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.params import Params, load_params, parse_params

ROOT = Path(__file__).parents[1]
PAPER: dict[str, Any] = {"posterior": "similarity", "prior": 10_000.0, "drop": None}
"""Of section `sampler`."""
TRIPLET: dict[str, dict[str, Any]] = {
    "loss": {"name": "triplet", "temperature": 0.05},
    "train": {"warmup": "triplet", "lr": 5e-5},
}
"""Of other sections."""


def paper_content() -> dict[str, Any]:
    """All values by section, to be changed."""
    content = load_params(ROOT / "params.yaml").model_dump()
    for section, values in {"sampler": PAPER, **TRIPLET}.items():
        content[section] |= values
    return content


def paper_params() -> Params:
    """The parameters themselves."""
    return parse_params(paper_content())
