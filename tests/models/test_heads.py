"""Heads over frozen features: what goes in, and the anchor beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize

from pipeline.evidence.alignment import fit_cca
from pipeline.files import read_record
from pipeline.models.anchor import leave_out_untrained_heads
from pipeline.models.build import load_trained, make_model, save_trained
from pipeline.models.heads import FeatureStatistics, Head
from pipeline.models.momentum import momentum_copy, update_momentum
from pipeline.models.normalisation import HALF
from pipeline.models.pretrained import BaseRecord
from pipeline.models.towers import MatchingModel
from tests.evidence.planted import planted
from tests.features.making import model_params

PAIRS = planted(40, 2, width=8)
IMAGE_NW, TEXT_MV = PAIRS.image_NW.float(), PAIRS.caption_MV.float()
ALIGNMENT = fit_cca(IMAGE_NW, TEXT_MV, PAIRS.caption_image_M)
STATISTICS = tuple(FeatureStatistics(part.mean(dim=0), part.std(dim=0)) for part in (IMAGE_NW, TEXT_MV))
NO_TOWERS = BaseRecord(mean=HALF, std=HALF, source={})


def heads(**changes: Any) -> MatchingModel:
    torch.manual_seed(0)
    settings = model_params(train="heads", **changes)
    anchored = settings.anchor == "cca"
    statistics: Any = STATISTICS if settings.standardise else None
    return make_model(NO_TOWERS, settings, 0.1, (8, 8), statistics, ALIGNMENT.state_dict() if anchored else None)


def shaken(model: MatchingModel) -> MatchingModel:
    """The same model with every trained weight moved, as after a step."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_inputs_are_standardised_and_then_dropped_out_in_training_only() -> None:
    plain, statistics = Head(8, 4), STATISTICS[0]
    head = Head(8, 4, statistics, dropout=0.5)
    head.load_state_dict(head.state_dict() | plain.state_dict())
    standard_NW = (IMAGE_NW - statistics.mean_W) / statistics.std_W
    torch.testing.assert_close(head.eval()(IMAGE_NW), plain(standard_NW))
    torch.manual_seed(1)
    dropped = head.train()(IMAGE_NW)
    torch.manual_seed(1)
    torch.testing.assert_close(dropped, plain(torch.nn.functional.dropout(standard_NW, 0.5)))


@pytest.mark.parametrize("family", ["vit_bert", "clip"])
def test_the_similarity_is_the_heads_plus_w_times_the_anchors_over_one_plus_w(family: str) -> None:
    weight = 0.6
    anchored = shaken(heads(family=family, anchor="cca", anchor_weight=weight, standardise=True)).eval()
    alone = heads(family=family, standardise=True).eval()
    assert anchored.width == 16
    for head, side in ((alone.image_head, anchored.image_head), (alone.text_head, anchored.text_head)):
        head.load_state_dict(side.get_submodule("head").state_dict())
    image, text = anchored(IMAGE_NW, TEXT_MV)
    head_image, head_text = alone(IMAGE_NW, TEXT_MV)
    cca = ALIGNMENT.image(IMAGE_NW) @ ALIGNMENT.text(TEXT_MV).T
    torch.testing.assert_close(image @ text.T, (head_image @ head_text.T + weight * cca) / (1 + weight))
    torch.testing.assert_close(image.norm(dim=1), torch.ones(40))


def test_untrained_it_is_the_alignment_alone_and_over_a_clip_also_the_clip() -> None:
    cca = ALIGNMENT.image(IMAGE_NW) @ ALIGNMENT.text(TEXT_MV).T
    clip = normalize(IMAGE_NW) @ normalize(TEXT_MV).T
    for family, expected in (("vit_bert", cca), ("clip", (clip + 0.5 * cca) / 1.5)):
        model = heads(family=family, anchor="cca", anchor_weight=0.5, standardise=True, dropout=0.3)
        leave_out_untrained_heads(model)
        image, text = model(IMAGE_NW, TEXT_MV)
        torch.testing.assert_close(image @ text.T, expected)


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "inputs": {"standardise": True, "dropout": 0.5},
    "anchor": {"anchor": "cca", "anchor_weight": 0.7},
    "all, clip": {"anchor": "cca", "standardise": True, "dropout": 0.5, "family": "clip"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_saved_and_loaded_it_gives_the_same_vectors_without_evidence_or_data(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = shaken(heads(**options)).eval()
    save_trained(tmp_path, model, model_params(train="heads", **options), NO_TOWERS)
    again = load_trained(tmp_path, (8, 8)).eval()
    assert again.width == model.width == read_record(tmp_path / "model.json")["width"]
    for found, expected in zip(again(IMAGE_NW, TEXT_MV), model(IMAGE_NW, TEXT_MV), strict=True):
        assert torch.equal(found, expected)


def test_what_is_fixed_is_never_trained_and_the_rest_is_what_a_siamese_replaces() -> None:
    model = heads(**OPTIONS["all, clip"]).eval()
    names = {name for name, _ in model.named_parameters()}
    assert not any("anchor" in name or "standardise" in name for name in names)
    moved = momentum_copy(shaken(heads(**OPTIONS["all, clip"])))
    weights: dict[str, Tensor] = dict(moved.named_parameters())
    assert weights.keys() == names
    for found, expected in zip(
        functional_call(model, weights, (IMAGE_NW, TEXT_MV)), moved(IMAGE_NW, TEXT_MV), strict=True
    ):
        assert torch.equal(found, expected)
    update_momentum(moved, model, 0.0)
    torch.testing.assert_close(moved(IMAGE_NW, TEXT_MV), model(IMAGE_NW, TEXT_MV))
