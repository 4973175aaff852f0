"""Encoders that params.yaml names for the evidence: which vectors they give, what is recorded, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import huggingface_hub
import pytest
import torch
from torch import Tensor

from pipeline.data.images import ImageArchive
from pipeline.errors import InputError
from pipeline.evidence.vectors import _check_widths
from pipeline.features.shards import all_features
from pipeline.files import read_record
from pipeline.models.small import small_image_backbone
from tests.models.test_pretrained import COMMIT, cached
from tests.stages.running import invoke, run, write_tiny_params

KINDS = ["captions", "regression", "pictures"]
NORMALISATION = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


@pytest.fixture
def towers(towers_clone: Path) -> Path:
    """Ready for training towers end to end; the base towers are also there as local folders `vit` and `bert`."""
    for side, name in (("image", "vit"), ("text", "bert")):
        shutil.copytree(towers_clone / "models/base" / side, towers_clone / name)
    return towers_clone


def vectors(here: Path, **changes: Any) -> list[Tensor]:
    """What stage `evidence` writes of captions and images."""
    write_tiny_params(here, **{"evidence__kinds": KINDS} | changes)
    run("evidence")
    folders = [here / "evidence" / name for name in ("train", "val", "test")]
    return [all_features(folder, kind).float() for kind in ("captions", "images") for folder in folders]


@pytest.mark.parametrize("captions", ["cleaned", "raw"])
def test_named_encoders_give_the_vectors_of_frozen_features(towers: Path, captions: str) -> None:
    """At the image encoder's own size, crop and normalisation, masked-mean pooled, whatever the trained towers have."""
    archive = ImageArchive("data/raw/images.zip")
    wide = {name: archive.decode(name).resize((64, 32)) for name in ZipFile(archive.path).namelist()}
    with ZipFile(archive.path, "w") as images:
        for name, picture in wide.items():
            picture.save(images.open(name, "w"), "PNG")
    own: dict[str, Any] = {f"image_{name}": values for name, values in NORMALISATION.items()}
    own |= {"size": 48, "do_center_crop": True}
    (towers / "vit/preprocessor_config.json").write_text(json.dumps(own))
    changes = {"model__captions": captions, "model__words": 3, "model__resize": "auto"}
    found = vectors(towers, evidence__text="bert", evidence__image="vit", model__pooling="mean_all", **changes)
    named = {"text": {"name": "bert", "revision": None}, "image": {"name": "vit", "revision": None}}
    assert read_record(Path("evidence/evidence.json"))["encoders"] == named

    base = towers / "models/base/base.json"
    base.write_text(json.dumps(json.loads(base.read_text()) | NORMALISATION))
    changes |= {"model__train": "heads", "model__image_size": 48, "model__resize": "crop"}
    write_tiny_params(towers, **changes)
    run("features")
    torch.testing.assert_close(found, vectors(towers, **changes), rtol=0, atol=2e-3)
    assert read_record(Path("evidence/evidence.json"))["encoders"] == {}


def test_captions_need_no_pictures_and_a_local_encoder_is_linked_for_dvc(towers: Path) -> None:
    shutil.rmtree(towers / "data/raw")
    write_tiny_params(towers, evidence__kinds=["words", "captions"], evidence__text="bert")
    assert "text encoder: bert" in run("evidence")
    assert towers / "bert/model.safetensors" in {link.resolve() for link in Path(".encoders").iterdir()}


def test_the_anchor_stays_of_the_heads_features(heads_ready: Path, towers: Path) -> None:
    shutil.copytree(heads_ready / "features", towers / "features", dirs_exist_ok=True)
    small_image_backbone(size=32, patch=16, width=8, layers=1, heads=2).save_pretrained(towers / "vit")
    anchored, alignment = {"model__train": "heads", "model__anchor": "cca"}, Path("evidence/alignment.safetensors")
    before, content = vectors(towers, **anchored), alignment.read_bytes()
    after = vectors(towers, evidence__image="vit", **anchored)
    assert alignment.read_bytes() == content
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("text", "image", "says"),
    [
        ("./berd", "vit", "evidence.text = './berd': no such folder"),
        ("bert", "bert", "evidence.image = 'bert': a bert cannot encode images alone"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_refused_by_its_key(towers: Path, text: str, image: str, says: str) -> None:
    write_tiny_params(towers, evidence__kinds=KINDS, evidence__text=text, evidence__image=image)
    assert invoke("evidence").output.startswith(f"error: {says}")


@pytest.mark.parametrize("asked", [COMMIT, "f" * 40])
def test_a_revision_is_pinned(asked: str, towers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(towers / "bert", cached(tmp_path / "hub", "some/bert"), dirs_exist_ok=True)
    named = {"evidence__text": "some/bert", "evidence__text_revision": asked}
    write_tiny_params(towers, evidence__kinds=["captions"], **named)
    said = invoke("evidence").output
    if asked == COMMIT:
        assert read_record(Path("evidence/evidence.json"))["encoders"]["text"] == {
            "name": "some/bert",
            "revision": COMMIT,
        }
    else:
        assert said.startswith("error: evidence.text = 'some/bert': cannot be fetched or read")


def test_vectors_of_two_widths_are_in_no_common_space() -> None:
    _check_widths(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(InputError, match="image vectors of width 3 and caption vectors of width 4"):
        _check_widths(torch.zeros(2, 3), torch.zeros(2, 4))
