"""A configuration that cannot be that of its weights is refused before memory is taken for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.models import sizes
from pipeline.models.pretrained import fetch
from pipeline.models.sizes import check_size
from tests.faults.guard import bounded
from tests.models.test_pretrained import write_towers


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    write_towers(folder)
    return folder


@pytest.mark.parametrize(
    ("tower", "changes", "said"),
    [
        ("bert", {"num_hidden_layers": 10**6}, r"num_hidden_layers = 1000000, but its weights are \d+ tensors"),
        ("bert", {"vocab_size": 10**8}, r"describes \d+ numbers, but its weights hold \d+"),
        ("vit", {"image_size": 10**6}, "describes"),
        ("vit", {"num_hidden_layers": 200, "intermediate_size": 10**5}, "describes"),
        ("vit", {"num_channels": 4096, "patch_size": 256, "image_size": 256}, "describes"),
    ],
)
def test_more_than_the_weights_hold_is_refused(
    towers: Path, tmp_path: Path, tower: str, changes: dict[str, int], said: str
) -> None:
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    path = tmp_path / tower / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=rf"model\.\w+ = .*{said}"), bounded():
        fetch(str(tmp_path / "vit"), str(tmp_path / "bert"), image_revision=None, text_revision=None)


def test_numbers_that_are_shared_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SMALL_NUMBERS", 10)

    def model(*, shared: bool) -> nn.Module:
        first, second = nn.Embedding(40, 2), nn.Embedding(40, 2)
        if shared:
            second.weight = first.weight
        return nn.Sequential(first, second)

    check_size({}, lambda: model(shared=True), [torch.Size((40, 2))])
    with pytest.raises(ValueError, match="describes 160 numbers, but its weights hold 80"):
        check_size({}, lambda: model(shared=False), [torch.Size((40, 2))])
