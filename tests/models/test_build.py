"""The model that is trained: what it owns, and that it is the same after it was saved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from pipeline.files import read_record
from pipeline.models import pretrained
from pipeline.models.build import load_base, load_end_to_end, load_trained, make_model, save_trained
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD, HALF, normalised
from pipeline.models.pretrained import Pretrained
from pipeline.models.towers import FIRST_TEMPERATURE, Tokens
from pipeline.params import ModelParams
from tests.features.making import model_params
from tests.models.making import two_towers

TOKENS = Tokens(torch.tensor([[2, 4, 3]]), torch.ones(1, 3, dtype=torch.long))
PIXELS = torch.arange(3 * 32 * 32, dtype=torch.int64).remainder(256).to(torch.uint8).view(1, 3, 32, 32)


@pytest.fixture
def base() -> Pretrained:
    """Tiny towers of different widths."""
    return two_towers(["red"])


def settings(**changes: object) -> ModelParams:
    return model_params(**{"image_size": 32, "width": None, **changes})


@pytest.mark.parametrize(("kind", "mean", "std"), [("model", HALF, HALF), ("clip", CLIP_MEAN, CLIP_STD)])
def test_pixels_are_normalised_by_the_model_and_other_numbers_stay(
    kind: str, mean: tuple[float, ...], std: tuple[float, ...], base: Pretrained
) -> None:
    model = make_model(base, settings(normalisation=kind))
    expected = normalised(PIXELS, mean, std)
    assert torch.equal(model.normalise(PIXELS), expected)
    assert model.normalise(expected) is expected
    assert torch.equal(model.encode_image(PIXELS), model.encode_image(expected))


def test_the_temperature_is_fixed_or_starts_from_clips(base: Pretrained) -> None:
    assert make_model(base, settings(), 0.05).temperature == 0.05
    learned = make_model(base, settings(), "learned")
    assert isinstance(learned.temperature, torch.Tensor)
    assert learned.temperature.item() == pytest.approx(FIRST_TEMPERATURE)


@pytest.mark.parametrize("temperature", [0.05, "learned"])
def test_towers_are_the_same_after_they_were_saved(temperature: float, base: Pretrained, tmp_path: Path) -> None:
    model = make_model(base, settings(), temperature).eval()
    assert model.width == 12
    save_trained(tmp_path, model, settings(), base)
    again = load_trained(tmp_path).eval()
    assert (again.mean, again.std, again.width) == (model.mean, model.std, model.width)
    assert again.state_dict().keys() == model.state_dict().keys()
    for found, expected in zip(again(PIXELS, TOKENS), model(PIXELS, TOKENS), strict=True):
        torch.testing.assert_close(found, expected)


def test_heads_are_read_over_features_and_over_the_towers_that_made_them(base: Pretrained, tmp_path: Path) -> None:
    pretrained.save(tmp_path / "base", base)
    model = make_model(base, settings(train="heads"), feature_widths=(16, 12)).eval()
    save_trained(tmp_path / "trained", model, settings(train="heads"), base)
    whole, _ = load_end_to_end(tmp_path / "trained", tmp_path / "base")
    whole.eval()
    features = whole.image_tower(whole.normalise(PIXELS)), whole.text_tower(TOKENS)
    heads = load_trained(tmp_path / "trained", (16, 12)).eval()
    for found, expected in zip(heads(*features), whole(PIXELS, TOKENS), strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match=r"model\.json: model\.train was heads, params\.yaml says towers"):
        load_trained(tmp_path / "trained")


def test_heads_over_other_towers_are_refused_and_an_earlier_record_is_read(base: Pretrained, tmp_path: Path) -> None:
    pretrained.save(tmp_path / "base", base)
    chosen, record = settings(train="heads"), load_base(tmp_path / "base", settings(train="heads"))
    save_trained(tmp_path / "trained", make_model(base, chosen, feature_widths=(16, 12)), chosen, record)
    load_end_to_end(tmp_path / "trained", tmp_path / "base")
    with torch.no_grad():
        next(base.text.parameters()).add_(1)
    pretrained.save(tmp_path / "base", base)
    with pytest.raises(InputError, match=r"trained: its heads were trained over other towers than those of .*base"):
        load_end_to_end(tmp_path / "trained", tmp_path / "base")
    del (earlier := read_record(tmp_path / "trained/model.json"))["base"]
    (tmp_path / "trained/model.json").write_text(json.dumps(earlier))
    load_end_to_end(tmp_path / "trained", tmp_path / "base")


@pytest.mark.parametrize(("key", "value"), [("mean", [0.5, math.inf, 0.5]), ("width", 0), ("train", "all")])
def test_a_record_that_cannot_be_is_named(key: str, value: object, base: Pretrained, tmp_path: Path) -> None:
    save_trained(tmp_path, make_model(base, settings()), settings(), base)
    record = read_record(tmp_path / "model.json") | {key: value}
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"model\.json: {key}.*`dvc repro train`"):
        load_trained(tmp_path)
