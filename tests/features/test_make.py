"""What stage `features` writes is what the towers and the tokenizer say, row by row."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pipeline.data.captions import clean_caption
from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split
from pipeline.errors import InputError
from pipeline.features import make as features
from pipeline.features import pixels as images
from pipeline.features import tokens
from pipeline.features.inputs import Inputs
from pipeline.features.pixels import Resize, square_pixels
from pipeline.features.shards import PackedShards
from pipeline.files import sha256
from pipeline.models.normalisation import HALF, normalised
from pipeline.models.pretrained import Pretrained
from pipeline.models.towers import ImageTower, TextTower, Tokens
from pipeline.params import ModelParams
from tests.features import making
from tests.models.making import two_towers

WORDS = ("red", "green", "blue", "dot", "square", "the")
IMAGES = 11
EVERY = list(range(IMAGES))


@pytest.fixture
def base() -> Pretrained:
    """Tiny towers from random weights."""
    return two_towers(WORDS, positions=12, text_width=16)


@pytest.fixture
def archive(tmp_path: Path) -> ImageArchive:
    """Pictures of different sizes, each of its own colour, darker in the middle; the last is larger than twice 32."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as images:
        for number in range(IMAGES):
            size = (100, 80) if number == IMAGES - 1 else (20 + number, 30)
            content = io.BytesIO()
            own = (Image.new("L", size, value) for value in (20 * number, 255 - 20 * number))
            Image.merge("RGB", (*own, Image.radial_gradient("L").resize(size))).save(content, "PNG")
            images.writestr(f"{number}.png", content.getvalue())
    return ImageArchive(tmp_path / "images.zip")


@pytest.fixture
def split() -> Split:
    """One to three captions an image, of different lengths."""
    captions = [
        [f"The {' '.join(WORDS[: 1 + (number + extra) % 5])}!" for extra in range(1 + number % 3)]
        for number in range(IMAGES)
    ]
    return Split.of([(f"{number}.png", texts) for number, texts in enumerate(captions)])


def model_params(train: str, resize: Resize = "square") -> ModelParams:
    """The repository's, for 32 pixels."""
    return making.model_params(train=train, image_size=32, resize=resize)


@pytest.mark.parametrize(("batch", "resize"), [(1, "square"), (3, "crop"), (64, "square")])
def test_frozen_features_are_the_towers_outputs_in_the_splits_order(
    base: Pretrained,
    archive: ImageArchive,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    resize: Resize,
) -> None:
    monkeypatch.setattr(images, "BATCH", batch)
    monkeypatch.setattr(tokens, "BATCH", batch)
    model = model_params("heads", resize)
    manifest = features.make_features(tmp_path / "out", {"train": split}, archive, base, model)
    shards = [f"train/{kind}-00000.safetensors" for kind in ("captions", "images")]
    assert manifest["sha256"] == {name: sha256(tmp_path / "out" / name) for name in shards}
    inputs = Inputs(tmp_path / "out/train", split, model, 0, augment=False)
    image_tower, text_tower = ImageTower(base.image), TextTower(base.text, "masked_mean")
    with torch.no_grad():
        for row, name in enumerate(split.images):
            pixels = square_pixels(archive.decode(name), 32, resize)[None]
            torch.testing.assert_close(inputs.images([row])[0], image_tower(normalised(pixels, HALF, HALF))[0])
        for row, caption in enumerate(split.captions):
            ids = torch.tensor(base.tokenizer(clean_caption(caption, model.words))["input_ids"])[None]
            encoded = inputs.texts([row], training=True)
            assert isinstance(encoded, torch.Tensor)
            torch.testing.assert_close(
                encoded[0], text_tower(Tokens(ids, torch.ones_like(ids)))[0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("resize", ["square", "crop"])
def test_prepared_images_keep_their_bytes_unless_they_are_larger_than_twice_the_training_size(
    resize: Resize, base: Pretrained, archive: ImageArchive, split: Split, tmp_path: Path
) -> None:
    model = model_params("towers", resize)
    features.make_features(tmp_path / "out", {"train": split}, archive, base, model)
    inputs = Inputs(tmp_path / "out/train", split, model, 0, augment=False)
    for row in range(IMAGES - 1):
        assert torch.equal(inputs.images([row])[0], square_pixels(archive.decode(split.images[row]), 32, resize))
    assert isinstance(inputs._images, PackedShards)
    stored = Image.open(io.BytesIO(inputs._images[IMAGES - 1].numpy().tobytes()))
    assert stored.format == "JPEG"
    assert stored.size == (80, 64)


def test_half_precision_takes_half_the_room_and_is_read_as_float32(
    base: Pretrained, archive: ImageArchive, split: Split, tmp_path: Path
) -> None:
    rows, sizes = [], []
    for dtype in ("float32", "float16"):
        model = model_params("heads").model_copy(update={"features_dtype": dtype})
        features.make_features(tmp_path / dtype, {"train": split}, archive, base, model)
        rows.append(Inputs(tmp_path / dtype / "train", split, model, 0, augment=False).images(EVERY))
        sizes.append((tmp_path / dtype / "train/images-00000.safetensors").stat().st_size)
    assert rows[1].dtype == torch.float32
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-3, atol=1e-3)
    assert sizes[0] - sizes[1] >= IMAGES * 16 * 2 - 8  # headers are padded to 8 bytes


@pytest.mark.parametrize("train", ["towers", "float32", "float16"])
def test_a_disk_without_room_is_refused_before_any_work(
    train: str, base: Pretrained, archive: ImageArchive, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 2 * (len(split.images) + len(split.captions))
    pictures = sum(size for _, size, _ in archive.contents)
    needed = {"towers": pictures + 2 * len(split.captions) * 4 * 512, "float32": rows * 8192, "float16": rows * 4096}
    model = model_params("towers" if train == "towers" else "heads").model_copy(
        update={"features_dtype": "float16" if train == "float16" else "float32"}
    )
    for free in (needed[train], needed[train] - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        folder = tmp_path / str(free)
        if free == needed[train]:
            features.make_features(folder, {"train": split, "val": split}, archive, base, model)
            continue
        with pytest.raises(InputError, match=rf"^{folder}: 0\.\d GB free, up to 0\.\d GB needed for features$"):
            features.make_features(folder, {"train": split, "val": split}, archive, base, model)
        assert not list(folder.iterdir())


def test_a_feature_too_large_for_half_precision_is_refused(
    base: Pretrained, archive: ImageArchive, split: Split, tmp_path: Path
) -> None:
    base.image.get_parameter("layernorm.weight").data.fill_(1e6)
    model = model_params("heads").model_copy(update={"features_dtype": "float16"})
    with pytest.raises(InputError, match=r"model\.features_dtype = 'float16': a feature of .* does not fit"):
        features.make_features(tmp_path / "out", {"train": split}, archive, base, model)


def test_features_computed_in_bf16_are_close_and_stored_as_float32(
    base: Pretrained, archive: ImageArchive, split: Split, tmp_path: Path
) -> None:
    made = {}
    for precision in ("float32", "bf16"):
        model = model_params("heads").model_copy(update={"features_precision": precision})
        manifest = features.make_features(tmp_path / precision, {"train": split}, archive, base, model)
        assert manifest["computed_in"] == precision
        inputs = Inputs(tmp_path / precision / "train", split, model, 0, augment=False)
        made[precision] = inputs.images(EVERY), inputs.texts(EVERY, training=True)
    for exact, near in zip(made["float32"], made["bf16"], strict=True):
        assert isinstance(exact, torch.Tensor) and isinstance(near, torch.Tensor)
        assert near.dtype == torch.float32
        assert not torch.equal(near, exact)
        assert torch.cosine_similarity(near, exact, dim=1).min() > 0.999
