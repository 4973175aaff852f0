"""The global batch's spans and draws, whatever number of processes shares it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime import processes
from pipeline.runtime.processes import gather, local_span, uniform, weight_of_rows, worked_span

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(0, 10**9)


@given(seed=SEEDS, step=STEPS, size=st.integers(1, 500))
def test_draws_are_decided_by_seed_and_step_and_lie_strictly_between_0_and_1(seed: int, step: int, size: int) -> None:
    drawn = uniform(seed, step, size)
    assert drawn.shape == (2, size)
    assert drawn.dtype == torch.float64
    assert bool(((drawn > 0) & (drawn < 1)).all())
    torch.rand(3)  # whatever else is drawn meanwhile
    assert torch.equal(uniform(seed, step, size), drawn)


def test_another_seed_step_direction_or_place_draws_differently() -> None:
    drawn = torch.cat([uniform(1, 5, 8), uniform(2, 5, 8), uniform(1, 6, 8), uniform(5, 1, 8)])
    assert len(drawn.unique()) == drawn.numel()


def test_draws_are_spread_evenly() -> None:
    drawn = torch.cat([uniform(3407, step, 64).flatten() for step in range(200)])
    counts = torch.histc(drawn, bins=16, min=0, max=1)
    expected = len(drawn) / 16
    assert float(((counts - expected) ** 2 / expected).sum()) < 30.58  # 99th percentile of chi-square, 15 degrees


def test_draws_are_fine_enough_for_millions_of_candidates() -> None:
    """Of 2^22 values 131 072 draws would hold some two thousand times."""
    drawn = uniform(1, 0, 1 << 16)
    assert len(drawn.unique()) == drawn.numel()


@given(size=st.integers(1, 200), count=st.integers(1, 9))
def test_spans_partition_the_batch_into_nearly_equal_parts(size: int, count: int) -> None:
    spans, worked, weights = [], [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "process_count", lambda: count)
        for index in range(count):
            patch.setattr(processes, "process_index", lambda index=index: index)
            spans.append(local_span(size))
            worked.append(worked_span(size))
            weights.append(weight_of_rows(size))
    assert [place for span in spans for place in span] == list(range(size))
    lengths = [len(span) for span in spans]
    assert max(lengths) - min(lengths) <= 1
    assert [span for span, weight in zip(worked, weights, strict=True) if weight] == [span for span in spans if span]
    assert all(len(span) == max(1, length) for span, length in zip(worked, lengths, strict=True))
    assert all(0 <= span.start < span.stop <= size for span in worked)
    assert set(weights) <= {0, count}


def test_one_process_has_everything() -> None:
    rows = torch.rand(5, 3)
    assert local_span(5) == range(5)
    assert gather(rows, 5) is rows
