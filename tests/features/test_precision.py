"""In which precision frozen towers compute: as asked, or as the device can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.features import precision
from pipeline.features.precision import autocast, in_precision, precision_on
from pipeline.models.towers import Tokens

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", "bf16"),
        ("flags : fpu amx_bf16 amx_tile", "bf16"),
        ("Features\t: fp asimd bf16 i8mm", "bf16"),
        ("flags\t\t: fpu avx2 avx512f", "float32"),
        ("model name\t: avx512_bf16", "float32"),
    ],
)
def test_auto_is_bf16_where_the_processor_multiplies_in_it(
    line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    assert precision_on(CPU, "auto") == expected
    assert [precision_on(CPU, "float32"), precision_on(CPU, "bf16")] == ["float32", "bf16"]


def test_auto_is_float32_where_no_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "none")
    assert precision_on(CPU, "auto") == "float32"


def test_products_are_in_bf16_only_where_it_is_said() -> None:
    one = torch.rand(3, 3)
    for asked, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(CPU, asked):  # type: ignore[arg-type]
            assert (one @ one).dtype == dtype


class Text(nn.Module):
    """A text tower with one layer, and one with an operation that has no bf16."""

    def __init__(self, *, transforms: bool) -> None:
        super().__init__()
        self.words, self.transforms = nn.Embedding(4, 8), transforms

    def forward(self, tokens: Tokens) -> torch.Tensor:
        hidden = self.words(tokens.ids).mean(1)
        return torch.fft.fft(hidden).real if self.transforms else hidden


def test_a_text_tower_in_bf16_is_a_copy_that_computes_in_it_as_a_whole() -> None:
    tower, tokens = Text(transforms=False), Tokens(torch.ones(1, 2).long(), torch.ones(1, 2).long())
    assert in_precision(tower, "float32") is tower
    assert in_precision(tower, "bf16")(tokens).dtype == torch.bfloat16
    assert tower(tokens).dtype == torch.float32


def test_a_text_tower_that_cannot_compute_in_bf16_is_refused() -> None:
    with pytest.raises(InputError, match=r"features_precision: the text tower does not compute in bf16 \(.*; take"):
        in_precision(Text(transforms=True), "bf16")
