"""The model that a training starts from, with what its heads need of the training split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evidence.alignment_file import read_alignment
from pipeline.evidence.moments import CHUNK_ROWS, SMALLEST_STD
from pipeline.features.inputs import Inputs
from pipeline.models.build import make_model
from pipeline.models.heads import FeatureStatistics
from pipeline.models.pretrained import BaseRecord
from pipeline.models.towers import MatchingModel
from pipeline.params import ModelParams
from pipeline.paths import ALIGNMENT


def start_model(
    base: BaseRecord, settings: ModelParams, temperature: float | Literal["learned"], train: Inputs, evidence: Path
) -> MatchingModel:
    """The untrained model, see `make_model`.

    Args:
        base: the towers.
        settings: section `model`.
        temperature: see `make_model`.
        train: the training split, whose statistics standardise the heads' inputs.
        evidence: the folder with the alignment of `model.anchor`.

    Raises:
        InputError: when the alignment is missing, or belongs to other features.
    """
    widths = train.feature_widths
    alignment = None
    if settings.anchor == "cca" and widths is not None:
        alignment = read_alignment(evidence).state_dict()
        found = len(alignment["image_mean_W"]), len(alignment["text_mean_V"])
        if found != widths:
            raise InputError(
                f"{evidence / ALIGNMENT.name}: aligns features of widths {found}, but the heads read {widths}; "
                "model.anchor needs the evidence of the very towers that stage features froze"
            )
    statistics = None
    if settings.standardise and widths is not None:

        def texts(rows: range) -> Tensor:
            feature_BW = train.texts(rows, training=True)
            assert isinstance(feature_BW, Tensor)
            return feature_BW

        statistics = (
            feature_statistics(train.images, len(train.names)),
            feature_statistics(texts, len(train.caption_image)),
        )
    return make_model(base, settings, temperature, widths, statistics, alignment)


def feature_statistics(read: Callable[[range], Tensor], count: int) -> FeatureStatistics:
    """Mean and standard deviation (+1e-3) of each feature over `count` rows, float64, over a chunk of rows at a time.

    The same for image features and for captions' (not scaled to unit length first); each row counts once.
    """
    chunks = [range(start, min(start + CHUNK_ROWS, count)) for start in range(0, count, CHUNK_ROWS)]
    mean_W = torch.stack([read(rows).double().sum(dim=0) for rows in chunks]).sum(dim=0) / count
    squares = [(read(rows).double() - mean_W).square().sum(dim=0) for rows in chunks]
    variance_W = torch.stack(squares).sum(dim=0) / count
    return FeatureStatistics(mean_W, variance_W.sqrt() + SMALLEST_STD)
