"""The model that a training starts from: statistics of the training split, and the alignment of the same features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import InputError
from pipeline.evidence import start
from pipeline.evidence.alignment import fit_cca
from pipeline.evidence.alignment_file import read_alignment, write_alignment
from pipeline.evidence.start import start_model
from pipeline.models.heads import Standardise
from pipeline.models.normalisation import HALF
from pipeline.models.pretrained import BaseRecord
from pipeline.models.towers import MatchingModel
from tests.evidence.planted import planted
from tests.features.making import frozen_inputs, model_params

PAIRS = planted(10, 3, width=8)
ALIGNMENT = fit_cca(*PAIRS)
NO_TOWERS = BaseRecord(mean=HALF, std=HALF, source={})


def started(folder: Path, **changes: Any) -> MatchingModel:
    image_NW, caption_MV, caption_image_M = PAIRS
    inputs = frozen_inputs(folder / "train", image_NW.float(), caption_MV.float(), caption_image_M.tolist())
    return start_model(NO_TOWERS, model_params(train="heads", **changes), 0.1, inputs, folder)


def test_both_sides_are_standardised_by_the_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "CHUNK_ROWS", 4)
    model = started(tmp_path, standardise=True)
    for head, feature in ((model.image_head, PAIRS.image_NW), (model.text_head, PAIRS.caption_MV)):
        (module,) = [part for part in head.modules() if isinstance(part, Standardise)]
        torch.testing.assert_close(module.mean_W, feature.mean(dim=0).float())
        torch.testing.assert_close(module.std_W, feature.std(dim=0, correction=0).float() + 1e-3)
    assert not [part for part in started(tmp_path).modules() if isinstance(part, Standardise)]


def test_the_anchor_is_the_alignment_that_was_written(tmp_path: Path) -> None:
    write_alignment(tmp_path, ALIGNMENT)
    assert torch.equal(read_alignment(tmp_path).image(PAIRS.image_NW), ALIGNMENT.image(PAIRS.image_NW))
    anchor: Any = started(tmp_path, anchor="cca").text_head.anchor
    assert torch.equal(anchor(PAIRS.caption_MV.float()), ALIGNMENT.text(PAIRS.caption_MV.float()))


def test_an_alignment_that_is_missing_damaged_or_of_other_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"alignment\.safetensors: not found; `dvc repro evidence` makes it"):
        started(tmp_path, anchor="cca")
    (tmp_path / "alignment.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"alignment\.safetensors: not a whole safetensors file"):
        started(tmp_path, anchor="cca")
    write_alignment(tmp_path, fit_cca(*planted(10, 3, width=6)))
    with pytest.raises(InputError, match=r"widths \(6, 6\), but the heads read \(8, 8\)"):
        started(tmp_path, anchor="cca")
