"""What a training is opened with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.making import open_tiny_training

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
