"""FNE: false negative elimination for image-text matching, as an experiment pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.loaded import Model


def load(place: str | Path = "models/trained", base: str | Path | None = None) -> Model:
    """A trained model that encodes and searches; see `pipeline.loaded.load`."""
    from pipeline.loaded import load as load_model

    return load_model(place, base)
