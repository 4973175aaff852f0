"""A configuration that cannot be that of its weights is refused before memory is set aside for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.models.pretrained import fetch
from tests.faults.guard import bounded
from tests.models.test_pretrained import write_towers


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    write_towers(folder)
    return folder


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        ("bert", "num_hidden_layers", 10**6),
        ("bert", "vocab_size", 10**8),
        ("bert", "max_position_embeddings", 10**8),
        ("bert", "hidden_size", 10**6),
        ("vit", "num_hidden_layers", 10**6),
        ("vit", "intermediate_size", 10**8),
        ("vit", "image_size", 10**6),
    ],
)
def test_more_than_the_weights_hold_is_refused(towers: Path, tmp_path: Path, tower: str, key: str, value: int) -> None:
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    path = tmp_path / tower / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"config\.json: {key} = "), bounded():
        fetch(str(tmp_path / "vit"), str(tmp_path / "bert"), image_revision=None, text_revision=None)


def test_the_right_ones_are_read(towers: Path) -> None:
    fetch(str(towers / "vit"), str(towers / "bert"), image_revision=None, text_revision=None)
