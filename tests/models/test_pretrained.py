"""Towers from the hub's cache, from folders, and from timm: read, encoded with, saved, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, ResNetConfig, ResNetModel, TimmWrapperConfig, TimmWrapperModel, ViTModel

from pipeline.errors import InputError
from pipeline.models import pretrained
from pipeline.models.normalisation import HALF
from pipeline.models.small import small_image_backbone, small_text_backbone, word_tokenizer
from pipeline.models.towers import ImageTower, TextTower, Tokens

WORDS = ("a", "dog", "red")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As with HF_HUB_OFFLINE=1, which is read once; returns the hub's empty cache."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return cache


def image_backbone() -> ViTModel:
    return small_image_backbone(size=32, patch=16, width=16, layers=1, heads=2)


def text_backbone() -> BertModel:
    return small_text_backbone(vocabulary_size=7, width=16, layers=1, heads=2, positions=12)


def write_towers(folder: Path) -> tuple[str, str]:
    """Both towers as transformers writes them: the names that params.yaml would give."""
    image_backbone().save_pretrained(folder / "vit")
    text_backbone().save_pretrained(folder / "bert")
    word_tokenizer(WORDS).save_pretrained(folder / "bert")
    return "vit", "bert"


def fetch(image: str, text: str, **revisions: str | None) -> pretrained.Pretrained:
    return pretrained.fetch(image, text, **({"image_revision": None, "text_revision": None} | revisions))


def cached(hub: Path, name: str) -> Path:
    """The folder of a hub model's one fetched revision, as the hub's library lays out its cache."""
    model = hub / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    return model / "snapshots" / COMMIT


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    pairs = zip(found.state_dict().items(), expected.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, right) for (name, value), (other, right) in pairs)


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    before = fetch(*write_towers(tmp_path))
    pretrained.save(tmp_path / "base", before)
    after = pretrained.load(tmp_path / "base")
    assert same(after.image, before.image)
    assert same(after.text, before.text)
    assert (
        after.source
        == before.source
        == {side: {"name": name, "revision": None} for side, name in (("image", "vit"), ("text", "bert"))}
    )
    assert (after.mean, after.std) == (before.mean, before.std) == (HALF, HALF)
    assert after.tokenizer("a red dog cat")["input_ids"] == before.tokenizer("a red dog cat")["input_ids"]
    record = json.loads((tmp_path / "base/base.json").read_text())
    files = {str(file.relative_to(tmp_path / "base")) for file in (tmp_path / "base").rglob("*") if file.is_file()}
    assert set(record["sha256"]) == files - {"base.json"} > {"image/model.safetensors", "text/tokenizer.json"}


def test_what_is_fetched_twice_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    for seed in (1, 2):
        torch.manual_seed(seed)
        pretrained.save(tmp_path / f"base{seed}", fetch(*names))
    assert (tmp_path / "base1/base.json").read_bytes() == (tmp_path / "base2/base.json").read_bytes()


def test_a_relative_path_is_the_main_repositorys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_towers(tmp_path)
    queued = tmp_path / "queued"
    queued.mkdir()
    monkeypatch.chdir(queued)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert fetch(*names).image.config.hidden_size == 16


def test_the_image_models_own_normalisation_is_taken(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    record = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(record))
    fetched = fetch(*names)
    assert fetched.mean == (0.1, 0.2, 0.3)
    assert fetched.std == (0.4, 0.5, 0.6)


CROP = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}


@pytest.mark.parametrize(("own", "size"), [({}, 32), (CROP, 224), (CROP | {"do_center_crop": False}, 256)])
def test_the_image_models_own_size_is_known(own: dict[str, Any], size: int, tmp_path: Path) -> None:
    image, _ = write_towers(tmp_path)
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(own))
    assert pretrained.fetch_image("model.image", image).size == size


WHOLE = {"size": {"height": 32, "width": 32}}


@pytest.mark.parametrize(
    ("own", "resize"),
    [
        (None, None),
        ({"image_mean": [0.1, 0.2, 0.3]}, None),
        (WHOLE, "square"),
        ({"size": 32}, "square"),
        (WHOLE | {"do_center_crop": True}, "crop"),
        (CROP, "crop"),
        ({"size": {"shortest_edge": 32}}, "crop"),
    ],
)
def test_the_image_models_own_resize_is_kept_and_taken_by_auto_alone(
    own: dict[str, Any] | None, resize: str | None, tmp_path: Path
) -> None:
    names = write_towers(tmp_path)
    if own is not None:
        (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(own))
    pretrained.save(tmp_path / "base", fetch(*names))
    for base in (pretrained.load(tmp_path / "base"), pretrained.read_base_record(tmp_path / "base")):
        assert base.resize == resize
        assert base.resize_by("auto") == (resize or "square")
        assert (base.resize_by("square"), base.resize_by("crop")) == ("square", "crop")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_folder_that_lacks_a_file_is_refused(side: str, missing: str, tmp_path: Path) -> None:
    image, text = write_towers(tmp_path)
    name = image if side == "image" else text
    (tmp_path / name / missing).unlink()
    with pytest.raises(InputError, match=f"^model.{side} = '{name}': the folder has no {missing}; transformers"):
        fetch(image, text)


def test_a_text_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    for path in (tmp_path / "bert").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match=r"^model\.text = 'bert': "):
        fetch(*names)


def test_a_tokenizer_without_a_padding_token_is_refused(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    path = tmp_path / "bert/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))
    with pytest.raises(InputError, match=r"^model\.text = 'bert': its tokenizer has no padding token"):
        fetch(*names)


def without(path: Path, part: str) -> None:
    """Take the tensors whose names contain `part` out of a safetensors file."""
    tensors = load_file(path)
    kept = {name: value for name, value in tensors.items() if part not in name}
    assert len(kept) < len(tensors)
    save_file(kept, path, {"format": "pt"})


def test_weights_that_lack_what_the_configuration_describes_are_refused(tmp_path: Path) -> None:
    """They would be loaded as random numbers, without a word."""
    names = write_towers(tmp_path)
    path = tmp_path / "bert/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2}))
    lacking = r"its weights lack encoder\.layer\.1\.[a-zA-Z.]+ and 15 more of"
    with pytest.raises(InputError, match=rf"^model\.text = 'bert': {lacking}"):
        fetch(*names)
    without(tmp_path / "vit/model.safetensors", "layernorm.bias")
    with pytest.raises(InputError, match=r"^model\.image = 'vit': its weights lack layernorm\.bias of what its config"):
        fetch(*names)


def test_weights_may_lack_a_pooler_and_a_mask_token(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    assert not any("pooler" in name for name in load_file(tmp_path / "bert/model.safetensors"))
    ViTModel(image_backbone().config, use_mask_token=True).save_pretrained(tmp_path / "vit")
    for part in ("mask_token", "pooler"):
        without(tmp_path / "vit/model.safetensors", part)
    assert fetch(*names).image.config.hidden_size == 16


@pytest.mark.parametrize("name", ["./vit", "~/no such towers", "/no/such/towers"])
def test_a_path_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^model\.image = .*: no such folder"):
        fetch(name, "bert")


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{", b"not safetensors at all" * 9])
def test_weights_that_are_cut_off_are_refused(content: bytes, tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    (tmp_path / "vit/model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"^model\.image = 'vit': the folder cannot be read \(.*\)$"):
        fetch(*names)


@pytest.mark.parametrize(("image", "text", "side"), [("google/vit", "bert", "image"), ("vit", "bert-base", "text")])
def test_a_hub_name_without_the_hub_says_how_to_give_a_folder(image: str, text: str, side: str, tmp_path: Path) -> None:
    write_towers(tmp_path)
    with pytest.raises(InputError) as refused:
        fetch(image, text)
    said = str(refused.value)
    assert said.startswith(f"model.{side} = '{image if side == 'image' else text}': cannot be fetched or read (")
    assert said.endswith(f"give their folder: -S model.{side}=path/to/folder")
    assert ("tokenizer" in said) == (side == "text")
    assert "\n" not in said


@pytest.mark.parametrize("asked", [None, COMMIT])
def test_the_revision_that_was_fetched_is_recorded(asked: str | None, offline: Path, tmp_path: Path) -> None:
    _, text = write_towers(tmp_path)
    image_backbone().save_pretrained(cached(offline, "some/vit"))
    pretrained.save(tmp_path / "base", fetch("some/vit", text, image_revision=asked, text_revision="main"))
    record = json.loads((tmp_path / "base/base.json").read_text())
    assert record["image"] == {"name": "some/vit", "revision": COMMIT}
    assert record["text"] == {"name": "bert", "revision": None}, "a folder has none, whatever was asked"
    assert pretrained.load(tmp_path / "base").source["image"]["revision"] == COMMIT


def test_another_revision_than_the_cached_one_is_refused(offline: Path, tmp_path: Path) -> None:
    _, text = write_towers(tmp_path)
    image_backbone().save_pretrained(cached(offline, "some/vit"))
    with pytest.raises(InputError, match=r"^model\.image = 'some/vit': cannot be fetched or read"):
        fetch("some/vit", text, image_revision="f" * 40)


def test_a_hub_model_with_pickled_weights_alone_is_refused(offline: Path, tmp_path: Path) -> None:
    _, text = write_towers(tmp_path)
    backbone, folder = image_backbone(), cached(offline, "old/vit")
    backbone.config.save_pretrained(folder)
    torch.save(backbone.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"^model\.image = 'old/vit': .*model\.safetensors"):
        fetch("old/vit", text)


SMALL_SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("test_vit", {"img_size": 64}), ("test_resnet", {}), ("swin_tiny_patch4_window7_224", SMALL_SWIN)],
)
def test_a_timm_model_encodes_and_is_saved(architecture: str, options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    _, text = write_towers(tmp_path)
    asked = {"architecture": architecture, "num_classes": 0, "model_args": options}
    config: Any = TimmWrapperConfig.from_dict(asked)
    config.pretrained_cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    TimmWrapperModel(config).save_pretrained(tmp_path / "timm")
    fetched = fetch("timm", text)
    assert fetched.mean == (0.1, 0.2, 0.3)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = ImageTower(fetched.image.eval())(pixels)
    backbone: Any = fetched.image
    assert features.shape == (2, backbone.timm_model.num_features)  # Swin's map has the channels last
    assert not torch.allclose(features[0], features[1])

    pretrained.save(tmp_path / "base", fetched)
    with torch.inference_mode():
        again = ImageTower(pretrained.load(tmp_path / "base").image.eval())(pixels)
    assert torch.equal(again, features)


def test_both_towers_encode_after_a_round_trip(tmp_path: Path) -> None:
    fetched = fetch(*write_towers(tmp_path))
    ids = torch.tensor(fetched.tokenizer("a red dog")["input_ids"])[None]
    with torch.inference_mode():
        image = ImageTower(fetched.image)(torch.zeros(1, 3, 48, 48))  # another size than it was made for
        text = TextTower(fetched.text, "masked_mean")(Tokens(ids, torch.ones_like(ids)))
    assert image.shape == text.shape == (1, 16)


def test_a_convolutional_tower_is_averaged_over_its_map(tmp_path: Path) -> None:
    _, text = write_towers(tmp_path)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path / "resnet")
    backbone = fetch("resnet", text).image.eval()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = backbone(pixel_values=pixels).last_hidden_state.mean(dim=(2, 3))
        assert torch.equal(ImageTower(backbone)(pixels), expected)
