"""Parameters of the published method: those of params.yaml but for the evidence, which tests of formulas leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.params import Params, load_params, parse_params

ROOT = Path(__file__).parents[1]
PAPER: dict[str, Any] = {"posterior": "similarity", "prior": 10_000.0, "drop": None}
"""Of section `sampler`."""


def paper_content() -> dict[str, Any]:
    """All values by section, to be changed."""
    content = load_params(ROOT / "params.yaml").model_dump()
    content["sampler"] |= PAPER
    return content


def paper_params() -> Params:
    """The parameters themselves."""
    return parse_params(paper_content())
