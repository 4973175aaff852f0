"""What a training is opened with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError
from pipeline.models.build import load_trained
from tests.training.making import open_tiny, open_tiny_training

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("augment", ["none", "fne"])
def test_training_images_are_augmented_where_asked_and_validation_images_never(
    augment: str, towers_ready: Path, tmp_path: Path
) -> None:
    training = open_tiny_training(towers_ready, tmp_path, train__augment=augment)
    train, val = training.train_inputs, training.val_inputs
    assert torch.equal(train.images([0, 1], seeds=[1, 2]), train.images([0, 1])) == (augment == "none")
    assert torch.equal(val.images([0, 1], seeds=[1, 2]), val.images([0, 1]))


@pytest.mark.parametrize("checkpointed", [True, False])
def test_both_towers_compute_activations_twice_where_asked(
    checkpointed: bool, towers_ready: Path, tmp_path: Path
) -> None:
    model = open_tiny_training(towers_ready, tmp_path, train__gradient_checkpointing=checkpointed).model
    assert [
        model.get_submodule(f"{side}_tower.backbone").is_activation_checkpointing for side in ("image", "text")
    ] == [checkpointed] * 2


def test_heads_need_neither_the_towers_nor_transformers(heads_ready: Path, tmp_path: Path) -> None:
    moved = tmp_path / "ready"
    shutil.copytree(heads_ready, moved)
    for side in ("image", "text"):
        shutil.rmtree(moved / "models/base" / side)
    code = (
        "import sys; sys.modules['transformers'] = None; from pathlib import Path\n"
        "from tests.training.making import open_tiny_training\n"
        f"open_tiny_training(Path({str(moved)!r}), Path({str(tmp_path)!r}), model__train='heads').run()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_low_rank_updates_and_the_upper_layers_alone_are_trained_and_saved_as_a_plain_model(
    towers_ready: Path, tmp_path: Path
) -> None:
    options = {"model__lora__rank": 2, "train__freeze__image": "all", "train__layer_decay": 0.5, "train__epochs": 1}
    training, save = open_tiny(towers_ready, tmp_path, **options)
    model = training.model
    assert all("text_tower" in name and "lora_" in name for name, one in model.named_parameters() if one.requires_grad)
    training.run()
    training.restore_best()
    save(tmp_path / "trained")
    loaded = load_trained(tmp_path / "trained").eval()
    rows = range(len(training.val_inputs.caption_image))
    texts = training.val_inputs.texts(rows, training=False)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_text(texts), model.eval().encode_text(texts), rtol=1e-4, atol=1e-5)
    before, after = (
        load_file(folder / "image/model.safetensors") for folder in (towers_ready / "models/base", tmp_path / "trained")
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_training_without_a_parameter_to_train_is_refused(towers_ready: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^train\.freeze: both towers are frozen and there is nothing else to train"):
        open_tiny_training(towers_ready, tmp_path, train__freeze={"image": "all", "text": "all"})


def test_training_ends_when_validation_has_not_improved(towers_ready: Path, tmp_path: Path) -> None:
    training = open_tiny_training(towers_ready, tmp_path, train__epochs=9, train__patience=2, train__lr=1e-12)
    assert training.run().epoch == 3
    training.at.epoch = 2
    assert training.run().epoch == 3


@pytest.mark.soak
def test_compiled_towers_train_as_plain_ones(towers_ready: Path, tmp_path: Path) -> None:
    histories = {}
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        training = open_tiny_training(towers_ready, folder, train__compile=compiled, train__epochs=1)
        histories[compiled] = training.run().history[-1]["train/loss"]
        assert (vars(training.model.text_tower).get("_compiled_call_impl") is not None) == compiled
    assert histories[True] == pytest.approx(histories[False], rel=1e-4)
