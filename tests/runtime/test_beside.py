"""Work in a second thread gives what it gives in the first, and towers trained side by side become the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from pipeline.base import towers
from pipeline.base.towers import make_base
from pipeline.errors import InputError
from pipeline.runtime.beside import Beside, core_is_free
from pipeline.training import loop
from tests.base.test_towers import params_for
from tests.training.making import (
    frozen_pairs,
    linear_heads,
    params_with,
    small_inputs,
    small_towers,
    tiny_training,
)
from tests.training.test_cached import BATCH

CPU = torch.device("cpu")
COMMON: dict[str, Any] = {"train__batch_size": 5, "train__epochs": 2, "memory__size": 8, "sampler__min_matches": 0}


def test_work_is_done_in_a_second_thread_only_where_a_core_is_free() -> None:
    here, places = threading.get_ident(), {}
    for free in (True, False):
        places[free] = Beside(free=free).start(threading.get_ident)()
    assert places[False] == here != places[True]


def test_an_error_of_the_work_reaches_who_waits() -> None:
    def fails(text: str) -> None:
        raise InputError(text)

    done = Beside(free=True).start(fails, "said elsewhere")
    with pytest.raises(InputError, match="said elsewhere"):
        done()


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, on a machine of two cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def test_a_small_model_on_a_cpu_leaves_a_core_free(small_model: None) -> None:
    assert core_is_free(CPU)


def test_no_core_is_free_for_a_model_on_a_gpu(small_model: None) -> None:
    assert not core_is_free(torch.device("cuda"))


@pytest.mark.parametrize(
    ("place", "value"),
    [("torch.get_num_threads", 2), ("os.cpu_count", 1), ("pipeline.runtime.beside.process_count", 2)],
)
def test_no_core_is_free_where_all_are_in_use(
    small_model: None, monkeypatch: pytest.MonkeyPatch, place: str, value: int
) -> None:
    monkeypatch.setattr(place, lambda: value)
    assert not core_is_free(CPU)


def test_the_users_number_of_threads_is_kept(small_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not core_is_free(CPU)


TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "FNE": ("vit_bert", {"train__warmup_epochs": 1}),
    "CLIP in the batch": ("clip", BATCH),
    "in parts": ("vit_bert", {"train__part": 2}),
    "a frozen tower": ("vit_bert", {"train__freeze__image": "all"}),
    "evidence, trust learned": ("clip", {"sampler__posterior": "evidence", "pairs__weighting": "crcl"}),
    "two batches a step": ("clip", {"train__accumulate": 2, "train__ema": 0.9}),
    "heads with dropout": ("heads", {}),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_on_two_cores_is_that_on_one_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    family, changes = TRAININGS[name]
    params, ends = params_with(**(COMMON | changes)), []
    for free in (False, True):
        monkeypatch.setattr(loop, "core_is_free", lambda _, free=free: free)
        torch.manual_seed(1)
        inputs = (frozen_pairs if family == "heads" else small_inputs)(tmp_path / f"inputs{free}")
        model = linear_heads(dropout=0.5) if family == "heads" else small_towers(family)
        training = tiny_training(tmp_path / str(free), params, model, inputs)
        training.run()
        ends.append(training)
    assert [training._beside.free for training in ends] == [False, True]
    one, two = (training.state.state_dict() | {"progress": without_times(training)} for training in ends)
    assert tree_map_only(torch.Tensor, torch.Tensor.tolist, two) == tree_map_only(
        torch.Tensor, torch.Tensor.tolist, one
    )


def without_times(training: loop.Training) -> list[dict[str, Any]]:
    return [row | {"time": 0} for row in training.at.history]


@pytest.mark.parametrize("changes", [{"train__gradient_checkpointing": True}, {"pairs__weighting": "npc"}])
def test_trainings_whose_towers_depend_on_each_other_use_one_core(
    tmp_path: Path, small_model: None, changes: dict[str, Any]
) -> None:
    """Recomputed activations change the random state; NPC takes gradients of single losses through both towers."""
    for asked in ({}, changes):
        params = params_with(**COMMON | asked)
        training = tiny_training(tmp_path, params, small_towers("clip"), small_inputs(tmp_path / f"{len(asked)}"))
        assert training._beside.free is not bool(asked)


def test_base_towers_made_on_two_cores_are_those_made_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for free in (False, True):
        monkeypatch.setattr(towers, "core_is_free", lambda _, free=free: free)
        ends.append(make_base(params_for(2), [("red", 9)]))
    for side in ("image", "text"):
        one, two = (getattr(made, side).state_dict() for made in ends)
        assert all(torch.equal(two[key], value) for key, value in one.items())
