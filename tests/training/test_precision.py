"""What lower precision must not touch: accelerate wraps the model's forward pass in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from tests.training.making import frozen_pairs, linear_heads, params_with, tiny_training


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """A process has one device and one precision: the other tests' are the CPU and float32."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def ratios(folder: Path, precision: str) -> Tensor:
    """NPC's r of every pair, after an epoch of warm-up and one of small steps."""
    params = params_with(
        train__precision=precision,
        train__epochs=2,
        train__batch_size=4,
        train__lr=1e-5,
        memory__size=0,
        loss__name="infonce",
        sampler__strategy="all",
        pairs__weighting="npc",
    )
    torch.manual_seed(3)
    training = tiny_training(folder, params, linear_heads(joint=64), frozen_pairs(folder))
    training.run()
    assert training.impact is not None
    AcceleratorState._reset_state(reset_partial_state=True)
    return training.impact.ratio_M


def test_bf16_does_not_draw_the_weights_of_npc_by_rounding(tmp_path: Path) -> None:
    """A step changes an entry's loss by less than bfloat16 tells apart."""
    exact_M, found_M = (ratios(tmp_path / precision, precision) for precision in ("no", "bf16"))
    assert 0 < (exact_M - 1).abs().max() < 1e-3, "steps are small"
    assert torch.corrcoef(torch.stack([exact_M, found_M]))[0, 1] > 0.99
